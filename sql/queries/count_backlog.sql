-- What waits for a person: paid donations that name no ticket, or none that we know (from the totals, so that it costs
-- nothing as donations grow), and events that could not be applied and were not dismissed.
SELECT (SELECT coalesce(sum(paid + refunded + disputed), 0)::bigint
        FROM ticket_totals t
        WHERE NOT EXISTS (SELECT FROM recording_tickets k WHERE k.id = t.ticket_id)),
       (SELECT count(*) FROM stripe_events WHERE error IS NOT NULL AND dismissed_at IS NULL)
