-- What an operator has to decide: the number of paid donations without a ticket, or with an unknown one (from the totals,
-- so that the cost does not grow with the donations), of events that could not be applied and were not dismissed, and of
-- mails to donors that were not delivered. `mail_delay_s`: for how long the mail that waits longest has been due.
SELECT (SELECT coalesce(sum(paid + refunded + disputed), 0)::bigint
        FROM ticket_totals t
        WHERE NOT EXISTS (SELECT FROM recording_tickets k WHERE k.id = t.ticket_id)) AS unassigned,
       (SELECT count(*) FROM stripe_events WHERE error IS NOT NULL AND dismissed_at IS NULL) AS failed,
       (SELECT count(*) FROM outbox WHERE state IN ('uncertain', 'undelivered')) AS undelivered,
       (SELECT coalesce(extract(epoch FROM greatest(now() - min(due_at), '0')), 0)::bigint
        FROM outbox WHERE state IN ('queued', 'sending')) AS mail_delay_s
