-- How many events could not be applied; without `all` only those that were not dismissed.
SELECT count(*) AS failed FROM stripe_events WHERE error IS NOT NULL AND (dismissed_at IS NULL OR %(all)s)
