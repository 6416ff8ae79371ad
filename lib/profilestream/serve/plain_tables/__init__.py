"""The tables `users` and `items`: plain columns for readers who know SQL."""
