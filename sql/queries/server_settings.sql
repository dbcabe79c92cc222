-- Settings of this session, by name: the value, the value at the session's start, and the beginning of the command that
-- sets one for the session's role in this database. A setting that the role may not see has no row, nor has one of an
-- extension that is not loaded.
SELECT name, setting, reset_val, format('ALTER ROLE %%I IN DATABASE %%I SET ', session_user, current_database())
FROM pg_settings WHERE name = ANY(%(names)s)
