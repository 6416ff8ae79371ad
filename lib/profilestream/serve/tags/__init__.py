"""Tags, RFM segments and loyalty tiers of users."""
