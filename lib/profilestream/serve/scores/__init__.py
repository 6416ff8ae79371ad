"""Recommendation lists."""
