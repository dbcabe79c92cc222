-- All facts of the donation that this Stripe object belongs to, and the object's own facts if it is a failed charge that
-- is kept apart.
SELECT a.facts, c.facts AS failed_charge
FROM stripe_objects o
JOIN stripe_attributions a ON a.id = o.root
LEFT JOIN stripe_failed_charges c ON c.id = o.id
WHERE o.id = %(id)s
