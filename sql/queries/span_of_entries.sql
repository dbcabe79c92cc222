-- When the money of the first and of the last entry up to a seq moved, in Unix seconds; null where there is none.
SELECT extract(epoch FROM min(effective_at))::bigint AS first, extract(epoch FROM max(effective_at))::bigint AS last
FROM ledger_entries WHERE seq <= %(seq)s
