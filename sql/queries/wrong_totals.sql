-- The tickets ('': none) whose totals are not what their donations add up to. Reads the whole ledger, at one moment.
WITH sums AS (
    SELECT coalesce(ticket_id, '') AS ticket_id, coalesce(currency, '') AS currency,
           sum(coalesce(amount_minor, 0)) AS paid_minor, sum(refunded_minor) AS refunded_minor,
           sum(disputed_minor) AS disputed_minor,
           count(*) FILTER (WHERE status = 'PAID') AS paid,
           count(*) FILTER (WHERE status = 'REFUNDED') AS refunded,
           count(*) FILTER (WHERE status = 'DISPUTED') AS disputed,
           count(*) FILTER (WHERE status = 'PAID' AND refunded_minor > 0) AS partially_refunded
    FROM stripe_attributions
    WHERE paid_at IS NOT NULL
    GROUP BY 1, 2
), kept AS (
    SELECT ticket_id, currency, paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded
    FROM ticket_totals
    WHERE (paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded)
          <> (0, 0, 0, 0, 0, 0, 0)
)
SELECT DISTINCT ticket_id
FROM ((TABLE sums EXCEPT TABLE kept) UNION ALL (TABLE kept EXCEPT TABLE sums)) differing
