-- Voids a receipt, and notes it at the mail that says so.
WITH voided AS (
    UPDATE receipts SET voided_at = coalesce(voided_at, %(at)s), changed_at = now()
    WHERE year = %(year)s AND number = %(number)s
)
UPDATE outbox SET receipt_year = %(year)s, receipt_number = %(number)s, changed_at = now() WHERE id = %(mail)s
