-- How many e-mail hashes failed in the last 24 hours.
SELECT count(DISTINCT subject) FROM payment_attempts
WHERE kind = 'hash' AND failures > 0 AND hour > now() - interval '24 hours'
