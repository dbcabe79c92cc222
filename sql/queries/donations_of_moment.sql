-- The donations of an account whose ids have a prefix, and whose moment (when each was paid, or created while it is not
-- paid) is from `low` to before `high`; null for no limit. Times are Unix seconds.
SELECT id, extract(epoch FROM created_at)::bigint AS created_at
FROM stripe_attributions
WHERE coalesce(paid_at, created_at) >= to_timestamp(%(low)s)
  AND (%(high)s::bigint IS NULL OR coalesce(paid_at, created_at) < to_timestamp(%(high)s))
  AND created_at <= to_timestamp(%(created_until)s)
  AND starts_with(id, %(prefix)s)
  AND account IS NOT DISTINCT FROM %(account)s
