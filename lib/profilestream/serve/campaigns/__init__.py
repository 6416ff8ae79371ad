"""Effect of a campaign on its users, by matching."""
