-- Issues a receipt under the number after the year's last one, voids the one that it replaces, and notes it at the mail
-- that it is for. Nothing is done if another process has taken the number meanwhile (two that take it at the same moment
-- are kept apart by the primary key), or if the donation has another valid receipt. So the numbers have no gaps.
WITH permitted AS MATERIALIZED (
    SELECT true AS is_permitted
    WHERE %(number)s = 1 + coalesce((SELECT max(number) FROM receipts WHERE year = %(year)s), 0)
      AND NOT EXISTS (
          SELECT FROM receipts
          WHERE donation_id = ANY (%(ids)s) AND voided_at IS NULL
            AND (year, number) IS DISTINCT FROM (%(replaced_year)s::integer, %(replaced_number)s::integer))
), issued AS (
    INSERT INTO receipts
           (year, number, donation_id, amount_minor, currency, paid_at, issued_at, language, template, pdf_sha256,
            replaced_year, replaced_number)
    SELECT %(year)s, %(number)s, %(donation_id)s, %(amount_minor)s, %(currency)s, %(paid_at)s, %(issued_at)s, %(language)s,
           %(template)s, %(pdf_sha256)s, %(replaced_year)s, %(replaced_number)s
    FROM permitted
    ON CONFLICT DO NOTHING
    RETURNING year, number
), replaced AS (
    UPDATE receipts SET voided_at = coalesce(voided_at, %(issued_at)s), changed_at = now()
    WHERE year = %(replaced_year)s AND number = %(replaced_number)s AND EXISTS (TABLE issued)
), noted AS (
    UPDATE outbox o SET receipt_year = i.year, receipt_number = i.number, changed_at = now() FROM issued i WHERE o.id = %(mail)s
)
SELECT EXISTS (TABLE issued) AS done
