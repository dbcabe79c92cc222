-- The number of a year's next receipt.
SELECT 1 + coalesce(max(number), 0) AS number FROM receipts WHERE year = %(year)s
