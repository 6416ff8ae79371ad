"""Detection of the format and the columns of an unknown log, for `capture_init`. Only `sample_preview` needs Spark."""
