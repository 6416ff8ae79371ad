"""Effect of a campaign on the treated users, estimated by matching."""
