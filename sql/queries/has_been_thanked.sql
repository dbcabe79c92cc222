-- Whether the thanks for a donation were sent under another id that it had before, or perhaps sent.
SELECT EXISTS (
    SELECT FROM outbox
    WHERE donation_id = ANY (%(ids)s) AND kind = 'thanks' AND id <> %(mail)s
      AND state IN ('sending', 'sent', 'uncertain')) AS is_thanked
