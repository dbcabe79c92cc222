-- The ledger, its events, its tickets, and the record of the database's health.
-- All amounts are whole minor units of their currency, as Stripe sends them.

-- What donations are for: a person's story on a fundraising site.
CREATE TABLE recording_tickets (
    id         text PRIMARY KEY CONSTRAINT ticket_id_form CHECK (id ~ '^[A-Za-z0-9._-]{1,64}$'),
    title      text NOT NULL DEFAULT '' CONSTRAINT ticket_title_length CHECK (length(title) <= 200),
    currency   text CONSTRAINT ticket_currency_form CHECK (currency ~ '^[A-Z]{3}$'),  -- null: DEFAULT_CURRENCY
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Every event Stripe delivered, by Stripe's own id: the idempotency key. An event with an error was not applied.
CREATE TABLE stripe_events (
    id             text PRIMARY KEY,
    type           text NOT NULL,
    stripe_created timestamptz NOT NULL,
    processed_at   timestamptz NOT NULL DEFAULT now(),
    livemode       boolean NOT NULL,
    error          text CONSTRAINT event_error_length CHECK (length(error) <= 500)
);

-- One row per donation: what is shown, derived from `facts`. Linked donations (rare) share the facts of one row, `root`.
CREATE TABLE stripe_attributions (
    id               text PRIMARY KEY,  -- the PaymentIntent's id, else the session's, else the charge's
    root             text NOT NULL,     -- the donation whose row holds the facts; usually itself
    version          bigint NOT NULL DEFAULT 0 CONSTRAINT version_rises CHECK (version >= 0),
    facts            json,              -- everything Stripe said, with source and time; on the root's row only
    ticket_id        text,              -- null: unassigned
    status           text NOT NULL CONSTRAINT status_known
                     CHECK (status IN ('CREATED', 'PAID', 'FAILED', 'REFUNDED', 'DISPUTED', 'EXPIRED')),
    amount_minor     bigint CONSTRAINT amount_positive CHECK (amount_minor > 0),
    currency         text CONSTRAINT currency_form CHECK (currency ~ '^[A-Z]{3}$'),
    refunded_minor   bigint NOT NULL CONSTRAINT refunded_not_negative CHECK (refunded_minor >= 0),
    disputed_minor   bigint NOT NULL CONSTRAINT disputed_not_negative CHECK (disputed_minor >= 0),
    created_at       timestamptz NOT NULL,
    paid_at          timestamptz,
    refunded_at      timestamptz,
    donor_last_name  text CONSTRAINT last_name_length CHECK (length(donor_last_name) <= 64),
    donor_country    text CONSTRAINT country_form CHECK (donor_country ~ '^[A-Z]{2}$'),
    donor_email_hash text CONSTRAINT email_hash_form CHECK (donor_email_hash ~ '^[0-9a-f]{64}$'),
    session_id       text,
    charge_id        text,
    account          text,              -- the connected account the event came from
    CONSTRAINT money_within_amount CHECK (amount_minor IS NULL OR refunded_minor + disputed_minor <= amount_minor),
    CONSTRAINT facts_at_root CHECK ((facts IS NOT NULL) = (id = root))
);

-- The ledger's order: paid last first, the unpaid after, created last first, then by id.
CREATE INDEX attributions_by_ticket ON stripe_attributions
    (ticket_id, (coalesce(paid_at, '-infinity')) DESC, created_at DESC, id);

-- Where each Stripe object's facts are kept: every id that any event of a donation has named.
CREATE TABLE stripe_objects (
    id   text PRIMARY KEY,
    root text NOT NULL
);

-- A ticket's figures in one currency, kept in the transaction that changes a donation, so that reading costs nothing.
CREATE TABLE ticket_totals (
    ticket_id          text NOT NULL,
    currency           text NOT NULL,
    paid_minor         bigint NOT NULL,
    refunded_minor     bigint NOT NULL,
    disputed_minor     bigint NOT NULL,
    paid               bigint NOT NULL,  -- donations by status: PAID
    refunded           bigint NOT NULL,  -- REFUNDED
    disputed           bigint NOT NULL,  -- DISPUTED, once paid
    partially_refunded bigint NOT NULL,  -- PAID with something refunded
    PRIMARY KEY (ticket_id, currency)
);

-- Each run of the startup gate and each change of the database's readiness.
CREATE TABLE health_check_runs (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL,
    kind   text NOT NULL CONSTRAINT kind_known CHECK (kind IN ('gate', 'transition')),
    ok     boolean NOT NULL,
    state  text NOT NULL,
    detail text NOT NULL DEFAULT ''
);
