-- Thank-you mails and receipts (SPEC 12).

-- Since when donations are thanked for: the time when the process jobs first started with mail configured. Without a row
-- no mail is queued, so that donations of before are never thanked for by mistake.
CREATE TABLE mail_start (
    started_at timestamptz NOT NULL,
    is_only    boolean PRIMARY KEY DEFAULT true CONSTRAINT mail_start_is_one_row CHECK (is_only)
);

-- The receipts that were issued. Their numbers have no gaps within a year: rows are never deleted. The donor's name and
-- address are not kept; a reprint fetches them from Stripe.
CREATE TABLE receipts (
    year            integer NOT NULL,
    number          integer NOT NULL CONSTRAINT receipt_number_positive CHECK (number > 0),
    donation_id     text NOT NULL,
    amount_minor    bigint NOT NULL CONSTRAINT receipt_amount_positive CHECK (amount_minor > 0),
    currency        text NOT NULL CONSTRAINT receipt_currency_form CHECK (currency ~ '^[A-Z]{3}$'),
    paid_at         timestamptz NOT NULL,
    issued_at       timestamptz NOT NULL,
    language        text NOT NULL CONSTRAINT receipt_language_form CHECK (language ~ '^[a-z]{2,3}$'),
    template        text NOT NULL CONSTRAINT receipt_template_form CHECK (template ~ '^[0-9a-f]{12}$'),
    pdf_sha256      text NOT NULL CONSTRAINT receipt_sha256_form CHECK (pdf_sha256 ~ '^[0-9a-f]{64}$'),
    replaced_year   integer,  -- the receipt that this one replaces
    replaced_number integer,
    voided_at       timestamptz,  -- set when it is replaced, or when nothing of the donation is left
    PRIMARY KEY (year, number),
    CONSTRAINT receipt_replaced_once UNIQUE (replaced_year, replaced_number),
    CONSTRAINT receipt_replaces_one FOREIGN KEY (replaced_year, replaced_number) REFERENCES receipts (year, number)
);
CREATE INDEX receipts_by_donation ON receipts (donation_id);

-- The mails to donors, by ids only: the thanks for a donation, which has its receipt, and a correction for each entry of
-- the journal that changed a paid donation. The statement that writes the donation inserts them.
CREATE TABLE outbox (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    donation_id    text NOT NULL,
    kind           text NOT NULL CONSTRAINT mail_kind_known CHECK (kind IN ('thanks', 'correction')),
    seq            bigint NOT NULL,  -- of a correction: the newest entry; else 0
    queued_at      timestamptz NOT NULL DEFAULT now(),
    due_at         timestamptz NOT NULL DEFAULT now(),
    attempts       integer NOT NULL DEFAULT 0,
    state          text NOT NULL DEFAULT 'queued' CONSTRAINT mail_state_known
                   CHECK (state IN ('queued', 'sending', 'sent', 'uncertain', 'undelivered', 'dismissed', 'not needed')),
    changed_at     timestamptz NOT NULL DEFAULT now(),
    reason         text CONSTRAINT mail_reason_length CHECK (length(reason) <= 100),  -- a class, never a server's text
    smtp_code      text CONSTRAINT mail_code_form CHECK (smtp_code ~ '^[2-5][0-9]{2}( [2-5]\.[0-9]{1,3}\.[0-9]{1,3})?$'),
    receipt_year   integer,  -- the receipt that it is about, once that is issued
    receipt_number integer,
    CONSTRAINT mail_is_one UNIQUE (donation_id, kind, seq),
    CONSTRAINT mail_of_receipt FOREIGN KEY (receipt_year, receipt_number) REFERENCES receipts (year, number)
);
CREATE INDEX mails_due ON outbox (due_at) WHERE state IN ('queued', 'sending');
CREATE INDEX mails_for_a_person ON outbox (changed_at) WHERE state IN ('uncertain', 'undelivered');

-- What an operator does with a mail that was not delivered.
ALTER TABLE operator_acts
    DROP CONSTRAINT act_known,
    DROP CONSTRAINT act_subject,
    ADD CONSTRAINT act_known CHECK (
        action IN ('assign', 'erase', 'withdraw', 'mail', 'dismiss', 'ticket', 'search', 'export', 'close')) NOT VALID,
    ADD CONSTRAINT act_subject CHECK (
        (action IN ('assign', 'erase', 'withdraw', 'mail')) = (donation_id IS NOT NULL)
        AND (action = 'dismiss') = (event_id IS NOT NULL)
        AND (action = 'ticket') = (ticket_id IS NOT NULL)) NOT VALID;

-- A role that may read and write the rows of every table may not delete these, nor change the time since when mails are sent.
DO $$
DECLARE
    kept regclass;
    reader name;
BEGIN
    FOREACH kept IN ARRAY ARRAY['receipts', 'outbox', 'mail_start']::regclass[] LOOP
        FOR reader IN
            SELECT DISTINCT r.rolname
            FROM pg_class c CROSS JOIN aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
            WHERE c.oid = kept AND a.grantee <> c.relowner
        LOOP
            EXECUTE format('REVOKE DELETE, TRUNCATE ON %s FROM %I', kept, reader);
            IF kept = 'mail_start'::regclass THEN
                EXECUTE format('REVOKE UPDATE ON %s FROM %I', kept, reader);
            END IF;
        END LOOP;
    END LOOP;
END
$$;
