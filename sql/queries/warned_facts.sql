-- The rows whose facts contain an early fraud warning. It is one of the objects of its donation, with an index of its own,
-- so this reads nothing else.
SELECT id, facts FROM stripe_attributions
WHERE id IN (SELECT root FROM stripe_objects WHERE starts_with(id, 'issfr_'))
