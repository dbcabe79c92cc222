"""Payments as Stripe reports them, for the demo, tests, the benchmark and the fault harness.

`stripe_model` and `stripe_invoices` know Stripe's objects and how each API version renders them, `state` what Stripe
holds of one payment; `payment_steps` and `monthly_steps` change it and send the events. `payment_lives` has the
repeatable kinds of the demo, `wild_lives` walks everywhere at random; `expectations` says what the ledger must show;
`player` signs and delivers. Nothing here knows the fold.
"""
