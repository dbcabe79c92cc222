-- Fees and payouts: what Stripe's balance transactions and payouts state (SPEC 11).

-- What is known of a balance transaction from `seq` on: of several rows with one id the newest counts. Rows are only added:
-- one more when the payout or the donation of a transaction becomes known, or when Stripe states another value. `seq` rises
-- by one in the order of commits. Amounts are in minor units of `currency`, in which Stripe settles.
CREATE TABLE balance_transactions (
    seq           bigint PRIMARY KEY CONSTRAINT balance_seq_positive CHECK (seq > 0),
    recorded_at   timestamptz NOT NULL,
    id            text NOT NULL,
    created_at    timestamptz NOT NULL,
    available_on  timestamptz NOT NULL,
    type          text NOT NULL,
    category      text NOT NULL,  -- Stripe's reporting category
    source_id     text,           -- the charge, refund, dispute or payout; null: the account's own
    donation_id   text,           -- null: none, or not known yet
    payout_id     text,           -- null: not paid out yet, or by a payout that Stripe does not attribute
    currency      text NOT NULL CONSTRAINT balance_currency_form CHECK (currency ~ '^[A-Z]{3}$'),
    amount_minor  bigint NOT NULL,
    fee_minor     bigint NOT NULL,
    net_minor     bigint NOT NULL,
    exchange_rate numeric         -- from the payment's currency, exactly as Stripe states it; null: nothing was converted
);
CREATE INDEX balance_by_id ON balance_transactions (id, seq);
CREATE INDEX balance_by_time ON balance_transactions (recorded_at, seq);
CREATE INDEX balance_by_donation ON balance_transactions (donation_id) WHERE donation_id IS NOT NULL;
CREATE INDEX balance_by_payout ON balance_transactions (payout_id) WHERE payout_id IS NOT NULL;

-- What is known of a payout from `seq` on, as above. A row is added after all transactions of the payout were.
CREATE TABLE payouts (
    seq            bigint PRIMARY KEY CONSTRAINT payout_seq_positive CHECK (seq > 0),
    recorded_at    timestamptz NOT NULL,
    id             text NOT NULL,
    created_at     timestamptz NOT NULL,
    arrival_date   date NOT NULL,
    currency       text NOT NULL CONSTRAINT payout_currency_form CHECK (currency ~ '^[A-Z]{3}$'),
    amount_minor   bigint NOT NULL,
    status         text NOT NULL,
    method         text NOT NULL,
    reconciliation text NOT NULL   -- whether Stripe states what the payout consists of: completed, in_progress, not_applicable
);
CREATE INDEX payouts_by_id ON payouts (id, seq);

-- How far Stripe's two lists have been read, newest first: all objects created until `complete_until` (Unix seconds) are
-- recorded. While a list is read, `cursor` is the last object that was, and `reading_until` what becomes `complete_until`.
CREATE TABLE balance_reading (
    list           text PRIMARY KEY CONSTRAINT list_known CHECK (list IN ('balance_transactions', 'payouts')),
    complete_until bigint,
    reading_until  bigint,
    cursor         text
);

-- The fees that a closed report counts; null in one that was closed before there were any.
ALTER TABLE closed_reports ADD COLUMN fees_seq bigint;

-- A role that may read and write the rows of every table may add to the first two and read them, and nothing else.
DO $$
DECLARE
    additive regclass;
    reader name;
BEGIN
    FOREACH additive IN ARRAY ARRAY['balance_transactions', 'payouts']::regclass[] LOOP
        FOR reader IN
            SELECT DISTINCT r.rolname
            FROM pg_class c CROSS JOIN aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
            WHERE c.oid = additive AND a.grantee <> c.relowner
        LOOP
            EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON %s FROM %I', additive, reader);
        END LOOP;
    END LOOP;
END
$$;
