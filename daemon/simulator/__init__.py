"""Payments as Stripe reports them, for the demo, the tests, the benchmark and the fault harness.

`stripe_objects` and `stripe_invoices` contain Stripe's objects and how each API version renders them, `state` what
Stripe holds of one payment. The steps in `payment` and `monthly_payment` change it and send the events. `scenarios`
generates typical payments, and `sender` signs and delivers their events. Nothing here imports the rest of donationd.
"""
