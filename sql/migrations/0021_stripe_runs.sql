-- How far each kind of run through Stripe's lists is (SPEC 12: replay, reconcile), one row per kind: an interrupted run
-- continues from here, and the row of one that has ended says what it found. It is kept beside the ledger that it is about,
-- so that a restored database does not believe that it has what was read after the backup. It contains no donor data.
CREATE TABLE stripe_runs (
    kind     text PRIMARY KEY CONSTRAINT run_kind_form CHECK (kind ~ '^[a-z_]{1,40}$'),
    state    json NOT NULL,
    saved_at timestamptz NOT NULL
);
