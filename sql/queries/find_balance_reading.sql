-- How far a list of Stripe's has been read; no row before the first time.
SELECT complete_until, reading_until, cursor FROM balance_reading WHERE list = %(list)s
