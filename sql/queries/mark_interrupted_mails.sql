-- Only one process sends mails, so those that are being sent when it starts were interrupted: each may have been sent.
UPDATE outbox SET state = 'uncertain', changed_at = now(), reason = 'perhaps sent' WHERE state = 'sending' RETURNING id
