-- The donations of the journal that no Stripe object and no row names, and whose entries add up to anything.
SELECT donation_id, kind, sum(amount_minor)::bigint
FROM ledger_entries e
WHERE NOT EXISTS (SELECT FROM stripe_objects o WHERE o.id = e.donation_id)
  AND NOT EXISTS (SELECT FROM stripe_attributions a WHERE a.id = e.donation_id)
GROUP BY donation_id, ticket_id, currency, kind, object_id, effective_at
HAVING sum(amount_minor) <> 0
ORDER BY donation_id, kind
