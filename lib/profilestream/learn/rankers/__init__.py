"""Rankers: items ranked for users by decayed counts of their baskets."""
