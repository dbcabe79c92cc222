-- Records that an operator has an event read from Stripe again, if it could not be applied. The row contains whether it
-- could not; there is no row for an unknown event.
WITH audited AS (
    INSERT INTO operator_acts (at, actor, action, event_id)
    SELECT now(), %(actor)s, 'replay', id FROM stripe_events WHERE id = %(id)s AND error IS NOT NULL
)
SELECT error IS NOT NULL AS failed FROM stripe_events WHERE id = %(id)s
