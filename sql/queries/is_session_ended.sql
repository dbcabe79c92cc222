-- Whether a session was ended before its cookie expires.
SELECT EXISTS (SELECT FROM ended_sessions WHERE id = %(id)s) AS is_ended
