-- The operators' actions, newest first.
SELECT at, actor AS by, action, donation_id AS donation, event_id AS event, detail
FROM operator_acts ORDER BY id DESC LIMIT %(limit)s
