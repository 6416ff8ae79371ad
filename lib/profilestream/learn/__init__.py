"""Models that are updated with every micro-batch: factors, segments; training examples, metrics and publishing."""
