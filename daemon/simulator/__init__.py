"""Payments as Stripe reports them, for the demo, the tests, the benchmark and the fault harness.

`stripe_objects`, `stripe_sessions` and `stripe_invoices` contain Stripe's objects and how each of `api_versions`
renders them, `state` what Stripe holds of one payment. The steps in `payment` and `monthly_payment` change it and send
the events. `scenarios` generates typical payments, and `sender` signs and delivers their events. A `world` has all
objects and events of an account, with its `balance`; `fake_stripe` serves it as Stripe's API does. Nothing here imports
the rest of donationd.
"""
