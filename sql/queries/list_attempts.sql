-- The attempts to pay of the last 24 hours: of each account, ticket and hash that had so many failures, and of every
-- country, by hour.
SELECT kind, subject, extract(epoch FROM hour)::bigint AS hour, attempts, failures, worst_minute
FROM payment_attempts a
WHERE hour > now() - interval '24 hours'
  AND (kind = 'country' OR (SELECT sum(failures) FROM payment_attempts s
                            WHERE (s.kind, s.subject) = (a.kind, a.subject)
                              AND s.hour > now() - interval '24 hours') >= %(failures)s)
