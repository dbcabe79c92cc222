-- What operators do to donations, and the money that has no ticket.

-- Each deed of an operator: who, when, what. Written in the transaction that changes the donation.
CREATE TABLE operator_acts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL,
    actor       text NOT NULL CONSTRAINT act_actor_length CHECK (length(actor) BETWEEN 1 AND 64),
    action      text NOT NULL CONSTRAINT act_known CHECK (action IN ('assign', 'erase')),
    donation_id text NOT NULL,
    detail      text NOT NULL DEFAULT ''  -- the ticket of an assignment
);

-- From now on totals also hold what no ticket claims (ticket '') and what no currency is known of (currency ''), so
-- that counting the unassigned donations costs nothing.
INSERT INTO ticket_totals
       (ticket_id, currency, paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded)
SELECT coalesce(ticket_id, ''), coalesce(currency, ''),
       sum(coalesce(amount_minor, 0)), sum(refunded_minor), sum(disputed_minor),
       count(*) FILTER (WHERE status = 'PAID'),
       count(*) FILTER (WHERE status = 'REFUNDED'),
       count(*) FILTER (WHERE status = 'DISPUTED'),
       count(*) FILTER (WHERE status = 'PAID' AND refunded_minor > 0)
FROM stripe_attributions
WHERE paid_at IS NOT NULL AND (ticket_id IS NULL OR currency IS NULL)
GROUP BY 1, 2;

-- The events that wait for a fix; almost always empty, so it costs the writer nothing.
CREATE INDEX events_failed ON stripe_events (processed_at) WHERE error IS NOT NULL;
