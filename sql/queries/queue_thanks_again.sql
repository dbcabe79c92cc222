-- Queues the thanks for a donation again, by all its ids, if they were not needed for this reason.
UPDATE outbox
SET state = 'queued', reason = NULL, changed_at = now(), queued_at = now(), due_at = now(), attempts = 0
WHERE donation_id = ANY (%(ids)s) AND kind = 'thanks' AND state = 'not needed' AND reason = %(reason)s
