-- Each version of a closed period, in every time zone in which it was closed; of every period if `period` is null.
SELECT period, time_zone, version, extract(epoch FROM begins_at)::bigint AS begin,
       extract(epoch FROM ends_at)::bigint AS "end", seq, journal_seq, sha256, release, tzdata, closed_at, closed_by, fees_seq
FROM closed_reports
WHERE %(period)s::text IS NULL OR period = %(period)s
ORDER BY closed_at, period, time_zone, version
