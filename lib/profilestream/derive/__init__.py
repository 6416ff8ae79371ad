"""Derived tables: statistics, the fold, tiles, profiles, sessions, transitions and window features."""
