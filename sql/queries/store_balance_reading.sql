-- Keeps how far a list of Stripe's has been read.
INSERT INTO balance_reading (list, complete_until, reading_until, cursor)
VALUES (%(list)s, %(complete_until)s, %(reading_until)s, %(cursor)s)
ON CONFLICT (list) DO UPDATE
SET complete_until = excluded.complete_until, reading_until = excluded.reading_until, cursor = excluded.cursor
