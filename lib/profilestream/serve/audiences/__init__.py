"""Lists of users for a mailing or an ad platform, as files."""
