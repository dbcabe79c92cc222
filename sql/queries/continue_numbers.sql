-- Draws numbers of actions and mails until the next ones are greater than all that the operator log has. The role of the API
-- may draw numbers, and may not set them. $action: the greatest id of an action in the log.
SELECT count(nextval(pg_get_serial_sequence(s.name, 'id')))
FROM (SELECT 'operator_acts' AS name, %(action)s::bigint AS newest UNION ALL SELECT 'outbox', max(id) FROM outbox) s
CROSS JOIN LATERAL generate_series(
    (SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence(s.name, 'id')), 0)) + 1, s.newest)
