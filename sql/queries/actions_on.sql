-- What operators did to the donations that have these ids, the oldest action first.
SELECT action, donation_id, detail, actor, (extract(epoch FROM at) * 1000000)::bigint AS at_us
FROM operator_acts
WHERE action IN ('assign', 'erase', 'withdraw') AND donation_id = ANY (%(ids)s::text[])
ORDER BY id
