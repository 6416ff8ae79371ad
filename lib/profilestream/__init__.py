"""Living user profiles for online shops, on Spark Structured Streaming and Delta Lake."""

__version__ = "0.1.0"
