"""What is known, served: one person in readable form."""
