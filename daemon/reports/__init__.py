"""What accountants and analysts read of the ledger (SPEC 11)."""
