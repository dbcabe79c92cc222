-- Notes what became of a mail. A queued one is due again after `wait_s`; one that was not sent yet counts an attempt.
WITH moment AS MATERIALIZED (SELECT now() AS at, now() + make_interval(secs => %(wait_s)s) AS next_at)
UPDATE outbox
SET state = %(state)s, reason = %(reason)s, smtp_code = %(code)s, changed_at = moment.at,
    attempts = attempts + CASE WHEN state = 'queued' AND %(state)s = 'queued' THEN 1 ELSE 0 END,
    due_at = CASE WHEN %(state)s = 'queued' THEN moment.next_at ELSE due_at END
FROM moment
WHERE id = %(id)s AND state IN ('queued', 'sending')
