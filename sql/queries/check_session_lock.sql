-- Whether this session is the one that took the lock with this token.
SELECT coalesce(current_setting('donationd.lock_token', true), '') = %(token)s
