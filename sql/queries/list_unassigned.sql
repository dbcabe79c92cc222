-- Paid donations without a ticket, or with an unknown one, paid last first (then created last first, then by id), after
-- the place (after_paid, after_created, after_id): infinity, infinity and '' for the first page. Of each unknown ticket
-- only so many are read as the page has, in the order of attributions_by_ticket.
WITH nowhere AS (
    SELECT DISTINCT nullif(ticket_id, '') AS ticket_id
    FROM ticket_totals t
    WHERE paid + refunded + disputed > 0
      AND NOT EXISTS (SELECT FROM recording_tickets k WHERE k.id = t.ticket_id)
)
SELECT id, ticket_id AS ticket, amount_minor, currency, status, paid_at, created_at
FROM (
    (SELECT * FROM stripe_attributions
     WHERE ticket_id IS NULL AND coalesce(paid_at, '-infinity') > '-infinity'
       AND coalesce(paid_at, '-infinity') <= %(after_paid)s
       AND (coalesce(paid_at, '-infinity') < %(after_paid)s OR created_at < %(after_created)s
            OR (created_at = %(after_created)s AND id > %(after_id)s))
     ORDER BY ticket_id, coalesce(paid_at, '-infinity') DESC, created_at DESC, id LIMIT %(limit)s)
    UNION ALL
    (SELECT a.* FROM nowhere n CROSS JOIN LATERAL (
        SELECT * FROM stripe_attributions
        WHERE ticket_id = n.ticket_id AND coalesce(paid_at, '-infinity') > '-infinity'
          AND coalesce(paid_at, '-infinity') <= %(after_paid)s
          AND (coalesce(paid_at, '-infinity') < %(after_paid)s OR created_at < %(after_created)s
               OR (created_at = %(after_created)s AND id > %(after_id)s))
        ORDER BY ticket_id, coalesce(paid_at, '-infinity') DESC, created_at DESC, id LIMIT %(limit)s
    ) a)
) unassigned
ORDER BY paid_at DESC, created_at DESC, id
LIMIT %(limit)s
