"""serve_report: one HTML page with charts of the tables."""
