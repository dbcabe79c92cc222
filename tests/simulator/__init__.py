"""Random payments in every version of Stripe's API, and what the ledger must show of them."""
