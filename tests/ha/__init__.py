"""A cluster of three hosts as deploy/ha describes it, and what becomes of the ledger when hosts fail: `make ha`."""
