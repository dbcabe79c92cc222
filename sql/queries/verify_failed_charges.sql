-- The failed charges of some PaymentIntents that are kept apart.
SELECT id, payment_intent FROM stripe_failed_charges WHERE payment_intent = ANY (%(ids)s)
