"""Models that learn with every micro-batch."""
