-- Of some payouts those whose transactions need not be read again: recorded with the same status, after Stripe had stated
-- all of them.
SELECT g.id
FROM json_to_recordset(%(rows)s::json) AS g(id text, status text)
CROSS JOIN LATERAL (SELECT status, reconciliation FROM payouts WHERE id = g.id ORDER BY seq DESC LIMIT 1) k
WHERE k.status = g.status AND k.reconciliation = 'completed'
