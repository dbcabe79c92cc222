-- The mails that wait for a person, those that changed last first, after the place (after_changed, after_id): infinity and
-- 0 for the first page.
SELECT id, donation_id, kind, state, reason, smtp_code, changed_at
FROM outbox
WHERE state IN ('uncertain', 'undelivered')
  AND changed_at <= %(after_changed)s AND (changed_at < %(after_changed)s OR id > %(after_id)s)
ORDER BY changed_at DESC, id
LIMIT %(limit)s
