-- The receipts of a donation, by its id and those that it had before, the newest first.
SELECT year, number, donation_id, amount_minor, currency, paid_at, issued_at, language, template, pdf_sha256,
       replaced_year, replaced_number, voided_at
FROM receipts
WHERE donation_id = ANY (%(ids)s)
ORDER BY year DESC, number DESC
