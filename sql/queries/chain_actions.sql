-- Adds to the audit chain the actions that are not in it, by id, at most 10,000; returns how many. The caller has the
-- chain's lock (lock_audit.sql).
--
-- An action's hash is the SHA-256 of the previous hash (32 bytes; zeros before the first) and the action as a JSON array
-- in PostgreSQL's form: [id, at in microseconds, actor, action, donation, event, ticket, detail]. Ids are drawn before
-- actions are committed, so one may be seen later than a greater one: by less than 1,000 actions. Whether an action has
-- a place is looked up by the index; PostgreSQL may answer NOT EXISTS by reading the whole chain for each action.
WITH links AS MATERIALIZED (
    WITH RECURSIVE newest AS MATERIALIZED (
        SELECT coalesce(max(number), 0) AS number, coalesce(max(act_id), 0) AS act_id,
               coalesce((SELECT c.hash FROM audit_chain c ORDER BY c.number DESC LIMIT 1),
                        decode(repeat('00', 32), 'hex')) AS hash
        FROM audit_chain
    ), chained(act_id, number, previous_hash, hash) AS (
        SELECT act_id - 1000, number, hash, hash FROM newest
        UNION ALL
        SELECT a.id, c.number + 1, c.hash,
               sha256(c.hash || convert_to(
                   json_build_array(a.id, (extract(epoch FROM a.at) * 1000000)::bigint, a.actor, a.action, a.donation_id,
                                    a.event_id, a.ticket_id, a.detail)::text, 'UTF8'))
        FROM chained c CROSS JOIN LATERAL (
            SELECT * FROM operator_acts o
            WHERE o.id > c.act_id AND (SELECT k.number FROM audit_chain k WHERE k.act_id = o.id) IS NULL
            ORDER BY o.id LIMIT 1
        ) a
    )
    SELECT number, act_id, previous_hash, hash FROM (SELECT * FROM chained LIMIT 10001) first
    WHERE number > (SELECT number FROM newest)
), added AS (
    INSERT INTO audit_chain (number, act_id, previous_hash, hash) SELECT * FROM links RETURNING number
)
SELECT count(*) AS added FROM added
