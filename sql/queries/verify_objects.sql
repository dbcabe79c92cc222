-- The rows that keep the facts of these Stripe objects.
SELECT id, root FROM stripe_objects WHERE id = ANY (%(ids)s)
