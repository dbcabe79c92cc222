-- Drops some of the events that were applied more than so many days ago, and returns their number. Events that failed stay.
WITH old AS (
    SELECT id FROM stripe_events
    WHERE processed_at < now() - make_interval(days => %(days)s) AND error IS NULL
    LIMIT %(limit)s
), dropped AS (
    DELETE FROM stripe_events WHERE id IN (SELECT id FROM old) RETURNING 1
)
SELECT count(*) FROM dropped
