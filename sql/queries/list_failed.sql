-- Events that could not be applied, received last first, each with how many there are; without `all` only those that
-- were not dismissed. `processed_at` is the time of the latest delivery.
SELECT id, type, stripe_created AS created_at, processed_at AS received_at, error, dismissed_at, count(*) OVER () AS total
FROM stripe_events
WHERE error IS NOT NULL AND (dismissed_at IS NULL OR %(all)s)
ORDER BY processed_at DESC, id
LIMIT %(limit)s
