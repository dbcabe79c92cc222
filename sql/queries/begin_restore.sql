-- Notes that the ledger was restored: no mail is sent until it has been compared with Stripe's objects (end_restore.sql).
INSERT INTO stripe_runs (kind, state, saved_at) VALUES ('restore', '{}', clock_timestamp())
ON CONFLICT (kind) DO UPDATE SET saved_at = excluded.saved_at
