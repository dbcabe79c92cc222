-- Whether the thanks for a donation were queued under another id that it had before, and not given up.
SELECT EXISTS (
    SELECT FROM outbox
    WHERE donation_id = ANY (%(ids)s) AND kind = 'thanks' AND id <> %(mail)s
      AND state IN ('sending', 'sent', 'uncertain', 'undelivered')) AS is_thanked
