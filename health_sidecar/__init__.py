"""The sidecar process: it decides whether the database can be used, and reports this to all other processes."""
