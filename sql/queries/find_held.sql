-- What the ledger holds of some Stripe objects: the rows with their facts. $1 ids
SELECT id, version, facts::text
FROM stripe_attributions
WHERE id IN (SELECT root FROM stripe_objects WHERE id = ANY ($1::text[]))
