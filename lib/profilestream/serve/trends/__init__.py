"""Trends of prices, category shares and spend by group of users."""
