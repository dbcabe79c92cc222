"""What `donationd report` does."""
