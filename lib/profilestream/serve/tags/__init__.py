"""Tags, RFM groups and loyalty tiers of users."""
