-- Queues a mail that waits for a person again, or dismisses it, and records who did it, both or neither. The row contains
-- whether this statement did it, and the state before; there is no row for an unknown mail.
WITH decided AS (
    UPDATE outbox
    SET state = %(state)s, changed_at = now(), queued_at = now(), due_at = now(), attempts = 0
    WHERE id = %(id)s AND state IN ('uncertain', 'undelivered')
    RETURNING id, donation_id, changed_at
), audited AS (
    INSERT INTO operator_acts (at, actor, action, donation_id, detail)
    SELECT changed_at, %(actor)s, 'mail', donation_id, %(detail)s FROM decided
)
SELECT EXISTS (TABLE decided) AS done, state FROM outbox WHERE id = %(id)s
