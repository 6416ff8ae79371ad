"""Training examples: point-in-time features and labels."""
