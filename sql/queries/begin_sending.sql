-- Notes that a mail is being sent from now on, and the hash of the receipt in it: of one that no server has had yet it
-- may have changed since it was issued. There is a row if this process may send it.
WITH sending AS (
    UPDATE outbox SET state = 'sending', changed_at = now(), attempts = attempts + 1
    WHERE id = %(id)s AND state = 'queued'
    RETURNING receipt_year, receipt_number
), kept AS (
    UPDATE receipts r SET pdf_sha256 = %(pdf_sha256)s, template = %(template)s, changed_at = now()
    FROM sending s
    WHERE r.year = s.receipt_year AND r.number = s.receipt_number AND r.voided_at IS NULL
      AND (r.pdf_sha256, r.template) <> (%(pdf_sha256)s, %(template)s)
)
SELECT true AS may_send FROM sending
