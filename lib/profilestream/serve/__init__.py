"""Serving of results: user views, tags, recommendations, the report, campaign effects and trends."""
