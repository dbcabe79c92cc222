-- Notes what became of a mail. A queued one is due again after `wait_s`; one that was not sent yet counts an attempt.
UPDATE outbox
SET state = %(state)s, reason = %(reason)s, smtp_code = %(code)s, changed_at = now(),
    attempts = attempts + CASE WHEN state = 'queued' AND %(state)s = 'queued' THEN 1 ELSE 0 END,
    due_at = CASE WHEN %(state)s = 'queued' THEN now() + make_interval(secs => %(wait_s)s) ELSE due_at END
WHERE id = %(id)s AND state IN ('queued', 'sending')
