"""The domain: Stripe's events become facts, facts become donations, donations become totals."""
