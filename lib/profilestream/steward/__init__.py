"""Operation of a warehouse: status, table documentation and the demo."""
