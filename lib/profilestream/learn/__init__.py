"""Models that are updated with every micro-batch, their metrics and published versions; training examples."""
