-- What an operator has to decide: the number of paid donations without a ticket, or with an unknown one (from the totals,
-- so that the cost does not grow with the donations), and of events that could not be applied and were not dismissed.
SELECT (SELECT coalesce(sum(paid + refunded + disputed), 0)::bigint
        FROM ticket_totals t
        WHERE NOT EXISTS (SELECT FROM recording_tickets k WHERE k.id = t.ticket_id)) AS unassigned,
       (SELECT count(*) FROM stripe_events WHERE error IS NOT NULL AND dismissed_at IS NULL) AS failed
