-- How far a kind of run through Stripe's lists is.
SELECT state::text FROM stripe_runs WHERE kind = %(kind)s
