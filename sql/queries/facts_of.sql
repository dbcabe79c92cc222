-- Everything the ledger holds of the donation that this Stripe object belongs to.
SELECT a.facts
FROM stripe_objects o JOIN stripe_attributions a ON a.id = o.root
WHERE o.id = %(id)s
