-- One receipt.
SELECT year, number, donation_id, amount_minor, currency, paid_at, issued_at, language, template, pdf_sha256,
       replaced_year, replaced_number, voided_at
FROM receipts
WHERE year = %(year)s AND number = %(number)s
