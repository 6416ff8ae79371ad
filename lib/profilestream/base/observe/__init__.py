"""Measures of batches, exported metrics, and alerts (docs/decisions/0043-observability.md)."""
