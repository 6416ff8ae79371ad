"""serve_report: one page that shows what is in the tables."""
