"""Factors: vectors of users and items, updated with every micro-batch."""
