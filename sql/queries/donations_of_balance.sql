-- The donations of a balance transaction, or of the transactions of a payout.
SELECT DISTINCT donation_id
FROM balance_transactions
WHERE donation_id IS NOT NULL AND (id = %(id)s OR payout_id = %(id)s)
