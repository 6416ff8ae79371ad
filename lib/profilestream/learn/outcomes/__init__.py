"""Outcomes: what a user does within a horizon after a time, learned when the horizon has passed."""
