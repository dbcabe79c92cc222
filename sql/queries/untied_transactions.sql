-- Balance transactions whose donation is not recorded although their source is known by now, by id, after one.
SELECT t.id, t.source_id AS source
FROM balance_transactions t
JOIN stripe_objects o ON o.id = t.source_id
WHERE t.donation_id IS NULL AND t.id > %(after)s
  AND NOT EXISTS (SELECT FROM balance_transactions n WHERE n.id = t.id AND n.seq > t.seq)
ORDER BY t.id LIMIT %(limit)s
