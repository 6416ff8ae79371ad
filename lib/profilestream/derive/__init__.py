"""Events to derived tables: decay, statistics, the fold engine, tiles."""
