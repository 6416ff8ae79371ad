"""Settings, session, tables, commits and streaming queries: what every other package uses."""
