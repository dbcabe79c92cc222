-- What the journal's entries add up to per day, for charts: these must not cost more as the journal grows. The API
-- adds what is new every few seconds (add_daily_sums.sql); reports that are filed are added up from the entries themselves.
CREATE TABLE daily_sums (
    time_zone    text NOT NULL,
    ticket_id    text NOT NULL,  -- '' for no ticket, '*' for all tickets together
    day          date NOT NULL,  -- of effective_at, in the time zone
    currency     text NOT NULL,
    kind         text NOT NULL,
    amount_minor bigint NOT NULL,
    PRIMARY KEY (time_zone, ticket_id, day, currency, kind)
);

-- Up to which entry the sums of a time zone count.
CREATE TABLE daily_sums_state (
    time_zone text PRIMARY KEY,
    seq       bigint NOT NULL,
    added_at  timestamptz NOT NULL DEFAULT now()
);
