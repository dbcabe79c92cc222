-- The receipts of a year, or of all years, after a place, in the order of their numbers, each with the one that replaced it.
SELECT r.year, r.number, r.donation_id, r.amount_minor, r.currency, r.paid_at, r.issued_at, r.language, r.template,
       r.pdf_sha256, r.replaced_year, r.replaced_number, r.voided_at, n.year AS next_year, n.number AS next_number
FROM receipts r
LEFT JOIN receipts n ON n.replaced_year = r.year AND n.replaced_number = r.number
WHERE (r.year = %(year)s OR %(year)s IS NULL) AND (r.year, r.number) > (%(after_year)s, %(after_number)s)
ORDER BY r.year, r.number
LIMIT %(limit)s
