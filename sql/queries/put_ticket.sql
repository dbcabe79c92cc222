-- Adds a ticket (with `is_new`), or changes one that is still as it was read, and records who did it. No row if another
-- process has added or changed it meanwhile: then nothing is done.
WITH written AS (
    INSERT INTO recording_tickets AS t (id, title, currency, goal_minor, state)
    VALUES (%(id)s, %(title)s, %(currency)s, %(goal_minor)s, %(state)s)
    ON CONFLICT (id) DO UPDATE SET
        title = excluded.title, currency = excluded.currency, goal_minor = excluded.goal_minor, state = excluded.state
    WHERE NOT %(is_new)s
      AND (t.title, t.currency, t.goal_minor, t.state)
          IS NOT DISTINCT FROM (%(old_title)s, %(old_currency)s, %(old_goal_minor)s::bigint, %(old_state)s)
    RETURNING id, title, currency, goal_minor, state, created_at
), audited AS (
    INSERT INTO operator_acts (at, actor, action, ticket_id, detail)
    SELECT now(), %(actor)s, 'ticket', id, %(detail)s FROM written
)
SELECT * FROM written
