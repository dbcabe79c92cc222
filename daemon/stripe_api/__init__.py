"""Stripe's API: its client, and what the other packages ask it for."""
