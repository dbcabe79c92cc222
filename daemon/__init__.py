"""The API process and the command line: Stripe's events in, a ledger out."""
