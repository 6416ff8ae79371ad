"""Segments: users with similar profiles, by incremental k-means."""
