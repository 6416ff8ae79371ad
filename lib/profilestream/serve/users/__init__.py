"""Views of users: the profile of one user in readable form, and the frame of all users."""
