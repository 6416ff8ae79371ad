"""Demand: units per item and week, and per category and day, and forecasts of the next ones."""
