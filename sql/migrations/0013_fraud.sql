-- Signals of fraud (SPEC 11).

-- How many attempts to pay there were, and how many of them failed: by account ('': the charity's own), by ticket, by
-- country and, from its first failure on, by e-mail hash. A failure may name a person whose card was stolen, so the ledger does not
-- keep it; what is counted here is deleted after 24 hours. The number of rows of each kind is limited.
CREATE TABLE payment_attempts (
    kind            text NOT NULL
                    CONSTRAINT attempt_kind_known CHECK (kind IN ('account', 'ticket', 'hash', 'country')),
    subject         text NOT NULL CONSTRAINT attempt_subject_length CHECK (length(subject) <= 255),
    hour            timestamptz NOT NULL,
    attempts        bigint NOT NULL,
    failures        bigint NOT NULL,
    minute          timestamptz NOT NULL,  -- the newest minute that was counted, and the attempts and failures in it
    minute_attempts bigint NOT NULL,
    minute_failures bigint NOT NULL,
    worst_minute    bigint NOT NULL,       -- the most failures in any minute of the hour with a large share of failures
    PRIMARY KEY (kind, subject, hour)
);

-- An early fraud warning is one of the objects of its donation; this finds all of them, and nothing else is in it.
CREATE INDEX early_warnings ON stripe_objects (id) WHERE starts_with(id, 'issfr_');

-- What was recorded lately. A block range index costs next to nothing per entry, because entries come in this order.
CREATE INDEX entries_by_recorded_at ON ledger_entries USING brin (recorded_at) WITH (pages_per_range = 32);
