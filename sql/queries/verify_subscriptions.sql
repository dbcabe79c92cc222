-- The facts of some subscriptions.
SELECT id, facts FROM stripe_billing WHERE id = ANY (%(ids)s)
