-- Balance transactions whose donation is not recorded although their source, or its payment, is known by now, by id, after
-- one. `object` is what is known.
SELECT DISTINCT ON (t.id) t.id, o.id AS object
FROM balance_transactions t
JOIN stripe_objects o ON o.id = t.source_id OR o.id = t.payment_id
WHERE t.donation_id IS NULL AND t.id > %(after)s
  AND NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq)
ORDER BY t.id, o.id = t.source_id DESC LIMIT %(limit)s
