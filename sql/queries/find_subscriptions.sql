-- The facts of some subscriptions. $1 ids
SELECT id, version, facts::text FROM stripe_billing WHERE id = ANY ($1::text[])
