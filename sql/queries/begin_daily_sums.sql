-- The state of a time zone's daily sums, which are empty at first.
INSERT INTO daily_sums_state (time_zone, seq) VALUES (%(time_zone)s, 0) ON CONFLICT DO NOTHING
