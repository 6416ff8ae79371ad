"""The sources of records: the interface, folders of files, and Delta tables."""
