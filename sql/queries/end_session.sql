-- Ends a session before its cookie expires. The rows of cookies that have expired are deleted a day later, because the clocks
-- of the hosts that check cookies may differ from the database's.
WITH expired AS (
    DELETE FROM ended_sessions WHERE expires_at < now() - interval '1 day'
)
INSERT INTO ended_sessions (id, expires_at) VALUES (%(id)s, to_timestamp(%(expires_at)s)) ON CONFLICT DO NOTHING
