-- How many mails wait for a person.
SELECT count(*) AS mails FROM outbox WHERE state IN ('uncertain', 'undelivered')
