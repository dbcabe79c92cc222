-- Gives back what acquire_session_lock.sql took, in a session that other clients use too.
SELECT pg_advisory_unlock_all(), set_config('donationd.lock_token', '', false), set_config('idle_session_timeout', '0', false)
WHERE current_setting('donationd.lock_token', true) = %(token)s
