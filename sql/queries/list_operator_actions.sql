-- The operators' actions, newest first, after the one that the cursor names (or from the start), each with its hash in
-- the audit chain (null until it is added, milliseconds later).
SELECT a.id, a.at, a.actor AS by, a.action, a.donation_id AS donation, a.event_id AS event, a.ticket_id AS ticket,
       a.detail, c.number, encode(c.hash, 'hex') AS hash
FROM operator_acts a LEFT JOIN audit_chain c ON c.act_id = a.id
WHERE %(before)s::bigint IS NULL OR a.id < %(before)s
ORDER BY a.id DESC LIMIT %(limit)s
