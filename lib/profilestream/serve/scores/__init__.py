"""Recommendation lists for users."""
