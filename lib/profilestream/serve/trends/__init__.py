"""Trends of prices, shares and spend by group of users."""
