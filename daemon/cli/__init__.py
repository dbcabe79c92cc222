"""The command `donationd`: one file per topic."""
