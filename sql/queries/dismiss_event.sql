-- Dismisses an event that could not be applied and records who did it, both or neither. The row contains whether
-- this statement dismissed it, and how the event was before; there is no row for an unknown event.
WITH dismissed AS (
    UPDATE stripe_events SET dismissed_at = now()
    WHERE id = %(id)s AND error IS NOT NULL AND dismissed_at IS NULL
    RETURNING id, dismissed_at
), audited AS (
    INSERT INTO operator_acts (at, actor, action, event_id)
    SELECT dismissed_at, %(actor)s, 'dismiss', id FROM dismissed
)
SELECT EXISTS (TABLE dismissed) AS done, error, dismissed_at FROM stripe_events WHERE id = %(id)s
