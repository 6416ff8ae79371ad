"""Settings, session, tables, commits and streaming queries; all other packages use this one."""
