-- Balance transactions that are tied to a donation which does not exist.
SELECT t.id, t.donation_id
FROM balance_transactions t
WHERE t.donation_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq)
  AND NOT EXISTS (SELECT FROM stripe_attributions a WHERE a.id = t.donation_id)
ORDER BY t.id
