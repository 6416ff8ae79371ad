"""Capture: raw shop logs to clean Delta events, without lost or duplicate rows."""
