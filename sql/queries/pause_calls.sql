-- Lets no call of this name begin for so many seconds. `at` is the present time, for tests; null is now().
INSERT INTO rate_limits AS r (name, full_at, paused_until)
SELECT %(name)s, at, at + make_interval(secs => %(pause_s)s) FROM (SELECT coalesce(%(at)s, now()) AS at) AS moment
ON CONFLICT (name) DO UPDATE SET paused_until = greatest(r.paused_until, EXCLUDED.paused_until)
