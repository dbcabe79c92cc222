-- Sets a ticket's totals ('': of no ticket) to what its donations add up to. The caller holds the ledger's lock.
WITH dropped AS (
    UPDATE ticket_totals t
    SET paid_minor = 0, refunded_minor = 0, disputed_minor = 0, paid = 0, refunded = 0, disputed = 0,
        partially_refunded = 0
    WHERE ticket_id = %(ticket)s AND NOT EXISTS (
        SELECT FROM stripe_attributions a
        WHERE a.ticket_id IS NOT DISTINCT FROM nullif(%(ticket)s, '') AND coalesce(a.currency, '') = t.currency
          AND a.paid_at IS NOT NULL
    )
)
INSERT INTO ticket_totals AS t
       (ticket_id, currency, paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded)
SELECT %(ticket)s, coalesce(currency, ''), sum(coalesce(amount_minor, 0)), sum(refunded_minor), sum(disputed_minor),
       count(*) FILTER (WHERE status = 'PAID'),
       count(*) FILTER (WHERE status = 'REFUNDED'),
       count(*) FILTER (WHERE status = 'DISPUTED'),
       count(*) FILTER (WHERE status = 'PAID' AND refunded_minor > 0)
FROM stripe_attributions
WHERE ticket_id IS NOT DISTINCT FROM nullif(%(ticket)s, '') AND paid_at IS NOT NULL
GROUP BY 2
ON CONFLICT (ticket_id, currency) DO UPDATE SET
    paid_minor = excluded.paid_minor, refunded_minor = excluded.refunded_minor,
    disputed_minor = excluded.disputed_minor, paid = excluded.paid, refunded = excluded.refunded,
    disputed = excluded.disputed, partially_refunded = excluded.partially_refunded
