"""A stateful fake of Stripe's API, for tests and for trials without an account at Stripe.

It serves the objects of a `World`, so that the API and the events of the simulator agree. `server` checks a request as
Stripe does and calls a handler of `resources`, `checkout_sessions` or `webhook_endpoints`; `failures` has what can be
made to go wrong. As a program: `python -m daemon.simulator.fake_stripe --help`.
"""
