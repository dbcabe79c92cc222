-- Begins to queue mails for the donations that are paid from now on; where that has begun, nothing changes.
INSERT INTO mail_start (started_at) VALUES (now()) ON CONFLICT DO NOTHING
