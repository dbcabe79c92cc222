-- The operators' actions after a place in the audit chain, in the order of the chain, each as JSON with its place and with
-- the row that it changed: a ticket, a dismissed event, a dismissed warning or a closed report.
SELECT c.number, encode(c.hash, 'hex') AS hash, a.id, a.action, a.donation_id,
       row_to_json(a)::text AS operator_acts, row_to_json(c)::text AS audit_chain,
       row_to_json(t)::text AS recording_tickets, row_to_json(e)::text AS stripe_events,
       row_to_json(w)::text AS dismissed_warnings, row_to_json(r)::text AS closed_reports
FROM audit_chain c
JOIN operator_acts a ON a.id = c.act_id
LEFT JOIN recording_tickets t ON a.action = 'ticket' AND t.id = a.ticket_id
LEFT JOIN stripe_events e ON a.action = 'dismiss' AND e.id = a.event_id
LEFT JOIN dismissed_warnings w ON a.action = 'warning' AND a.detail = 'dismiss ' || w.id
LEFT JOIN closed_reports r ON a.action = 'close' AND r.closed_at = a.at AND r.closed_by = a.actor
WHERE c.number > %(after)s
ORDER BY c.number
