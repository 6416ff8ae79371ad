"""Raw shop logs to clean Delta events: nothing lost, nothing doubled."""
