"""Care of what is stored: status, the demo, later erasure and maintenance."""
