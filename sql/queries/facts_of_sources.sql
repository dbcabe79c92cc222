-- The facts of the donations that some Stripe objects belong to, each with the object's own if it is a failed charge that
-- is kept apart.
SELECT o.id, a.facts, c.facts AS failed_charge
FROM stripe_objects o
JOIN stripe_attributions a ON a.id = o.root
LEFT JOIN stripe_failed_charges c ON c.id = o.id
WHERE o.id = ANY (%(ids)s)
