-- Saves how far a kind of run through Stripe's lists is.
INSERT INTO stripe_runs (kind, state, saved_at) VALUES (%(kind)s, %(state)s, clock_timestamp())
ON CONFLICT (kind) DO UPDATE SET state = excluded.state, saved_at = excluded.saved_at
