"""One user's profile in readable form."""
