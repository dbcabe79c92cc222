-- The receipts that were changed since a time, as JSON, in the order of their numbers: one that is replaced comes before
-- the one that replaces it.
SELECT row_to_json(r)::text AS receipt FROM receipts r WHERE changed_at >= %(since)s ORDER BY year, number
