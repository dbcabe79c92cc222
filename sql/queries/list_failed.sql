-- Events that could not be applied, received last first, then by id, after the place (after_received, after_id): infinity
-- and '' for the first page. Without `all` only those that were not dismissed. `processed_at` is the time of the latest
-- delivery.
SELECT id, type, stripe_created AS created_at, processed_at AS received_at, error, dismissed_at
FROM stripe_events
WHERE error IS NOT NULL AND (dismissed_at IS NULL OR %(all)s)
  AND processed_at <= %(after_received)s AND (processed_at < %(after_received)s OR id > %(after_id)s)
ORDER BY processed_at DESC, id
LIMIT %(limit)s
