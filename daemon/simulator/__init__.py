"""Payment lives as Stripe tells them, for the demo, tests, the benchmark and the fault harness.

`stripe_model` knows Stripe's objects and how each API version renders them; `payment_steps` changes them and emits the
events; `payment_lives` deals repeatable lives, `wild_lives` walks everywhere at random; `expectations` reads from the
objects what the ledger must say; `player` signs and delivers. Nothing here knows the fold.
"""
