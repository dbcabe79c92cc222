-- What the operator log (SPEC 14, restore) finds its rows by: mails and receipts in the order in which they were changed.
ALTER TABLE receipts ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX receipts_by_change ON receipts (changed_at);
CREATE INDEX mails_by_change ON outbox (changed_at);
