-- Balance transactions whose source, or its payment, is known by now, and whose donation is not recorded, or has another id
-- since then; by id, after one. `object` is what is known.
SELECT DISTINCT ON (t.id) t.id, o.id AS object
FROM balance_transactions t
JOIN stripe_objects o ON o.id = t.source_id OR o.id = t.payment_id
WHERE (t.donation_id IS NULL OR NOT EXISTS (SELECT FROM stripe_attributions a WHERE a.id = t.donation_id))
  AND t.id > %(after)s
  AND NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq)
ORDER BY t.id, o.id = t.source_id DESC LIMIT %(limit)s
