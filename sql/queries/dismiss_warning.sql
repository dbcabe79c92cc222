-- Dismisses an early fraud warning and records who did it, both or neither. There is a row if this statement did it.
WITH dismissed AS (
    INSERT INTO dismissed_warnings (id) VALUES (%(id)s) ON CONFLICT DO NOTHING RETURNING id, dismissed_at
), audited AS (
    INSERT INTO operator_acts (at, actor, action, donation_id, detail)
    SELECT dismissed_at, %(actor)s, 'warning', %(donation)s, 'dismiss ' || id FROM dismissed
)
SELECT id FROM dismissed
