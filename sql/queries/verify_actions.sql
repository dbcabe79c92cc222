-- The audit chain, by number, each place with its action (null where it is missing), and then the actions that are not in
-- the chain, by id.
SELECT c.number, c.act_id, c.previous_hash, c.hash, a.id, (extract(epoch FROM a.at) * 1000000)::bigint AS at_us, a.actor,
       a.action, a.donation_id, a.event_id, a.ticket_id, a.detail
FROM audit_chain c FULL JOIN operator_acts a ON a.id = c.act_id
ORDER BY c.number NULLS LAST, a.id
