-- Rows say by which rules they were derived, so that a release that changes a rule can derive them again; monthly gifts
-- borrow from their subscription; and the failed charges of a payment stay out of its row.

-- `rules_version` holds for the `version` in `derived_version` only: a release that knows neither column writes a row
-- without touching them, and the row then counts as derived by older rules.
ALTER TABLE stripe_attributions
    ADD COLUMN rules_version   integer NOT NULL DEFAULT 0,
    ADD COLUMN derived_version bigint NOT NULL DEFAULT 0,
    ADD COLUMN subscription_id text;  -- of a monthly gift: whose facts its row was derived from as well

-- Empty once `donationd rebuild` has run. The next version of the rules brings an index of its own.
CREATE INDEX attributions_of_older_rules ON stripe_attributions (id) WHERE rules_version < 1;

CREATE INDEX attributions_by_subscription ON stripe_attributions (subscription_id) WHERE subscription_id IS NOT NULL;

-- Facts that belong to no single donation: of subscriptions, and of invoices whose payment is not known yet.
CREATE TABLE stripe_billing (
    id      text PRIMARY KEY,
    version bigint NOT NULL CONSTRAINT billing_version_rises CHECK (version > 0),
    facts   json NOT NULL
);

-- Failed charges whose facts their PaymentIntent's row does without: they supply no value as long as they stay failed.
CREATE TABLE stripe_failed_charges (
    id             text PRIMARY KEY,
    payment_intent text NOT NULL,
    facts          json NOT NULL
);
CREATE INDEX failed_charges_by_intent ON stripe_failed_charges (payment_intent);
