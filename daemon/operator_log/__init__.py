"""The operator log: a file outside the database with what Stripe cannot give back to a restored ledger (SPEC 14)."""
