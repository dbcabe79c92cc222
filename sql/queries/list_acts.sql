-- What operators did, newest first.
SELECT at, actor, action, donation_id, event_id, detail FROM operator_acts ORDER BY id DESC LIMIT %(limit)s
