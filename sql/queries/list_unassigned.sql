-- Paid donations without a ticket, or with an unknown one, paid last first.
WITH unknown AS (
    SELECT DISTINCT ticket_id
    FROM ticket_totals t
    WHERE NOT EXISTS (SELECT FROM recording_tickets k WHERE k.id = t.ticket_id)
)
SELECT id, ticket_id AS ticket, amount_minor, currency, status, paid_at
FROM (
    SELECT a.* FROM stripe_attributions a WHERE a.ticket_id IS NULL
    UNION ALL
    SELECT a.* FROM unknown u JOIN stripe_attributions a ON a.ticket_id = u.ticket_id
) unassigned
WHERE paid_at IS NOT NULL
ORDER BY paid_at DESC, id
LIMIT %(limit)s
