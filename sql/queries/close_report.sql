-- Adds the next version of a closed report, and records who closed it, both or neither. The caller has the ledger's lock
-- (lock_ledger.sql), so that no entry and no other version is written meanwhile.
WITH closed AS (
    INSERT INTO closed_reports (period, time_zone, version, begins_at, ends_at, seq, journal_seq, sha256, release, tzdata,
                                closed_at, closed_by, fees_seq)
    SELECT %(period)s, %(time_zone)s,
           (SELECT coalesce(max(version), 0) + 1 FROM closed_reports
            WHERE period = %(period)s AND time_zone = %(time_zone)s),
           to_timestamp(%(begin)s), to_timestamp(%(end)s), %(seq)s,
           (SELECT coalesce(max(seq), 0) FROM ledger_entries), %(sha256)s, %(release)s, %(tzdata)s, clock_timestamp(),
           %(actor)s, %(fees_seq)s
    RETURNING *
), audited AS (
    INSERT INTO operator_acts (at, actor, action, detail)
    SELECT closed_at, closed_by, 'close', format('%%s in %%s, version %%s', period, time_zone, version) FROM closed
)
SELECT period, time_zone, version, extract(epoch FROM begins_at)::bigint AS begin,
       extract(epoch FROM ends_at)::bigint AS "end", seq, journal_seq, sha256, release, tzdata, closed_at, closed_by,
       fees_seq
FROM closed
