-- Sets a ticket's totals ('': of no ticket) to what its donations add up to. The caller holds the ledger's lock.
WITH sums AS MATERIALIZED (
    SELECT %(ticket)s AS ticket_id, coalesce(currency, '') AS currency, sum(coalesce(amount_minor, 0)) AS paid_minor,
           sum(refunded_minor) AS refunded_minor, sum(disputed_minor) AS disputed_minor,
           count(*) FILTER (WHERE status = 'PAID') AS paid,
           count(*) FILTER (WHERE status = 'REFUNDED') AS refunded,
           count(*) FILTER (WHERE status = 'DISPUTED') AS disputed,
           count(*) FILTER (WHERE status = 'PAID' AND refunded_minor > 0) AS partially_refunded
    FROM stripe_attributions
    WHERE ticket_id IS NOT DISTINCT FROM nullif(%(ticket)s, '') AND paid_at IS NOT NULL
    GROUP BY coalesce(currency, '')
), dropped AS (
    UPDATE ticket_totals
    SET paid_minor = 0, refunded_minor = 0, disputed_minor = 0, paid = 0, refunded = 0, disputed = 0,
        partially_refunded = 0
    WHERE ticket_id = %(ticket)s AND currency NOT IN (SELECT currency FROM sums)
)
INSERT INTO ticket_totals AS t
       (ticket_id, currency, paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded)
SELECT * FROM sums
ON CONFLICT (ticket_id, currency) DO UPDATE SET
    paid_minor = excluded.paid_minor, refunded_minor = excluded.refunded_minor,
    disputed_minor = excluded.disputed_minor, paid = excluded.paid, refunded = excluded.refunded,
    disputed = excluded.disputed, partially_refunded = excluded.partially_refunded
