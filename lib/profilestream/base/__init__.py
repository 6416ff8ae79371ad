"""What every room stands on: settings, session, tables, commits, streams."""
