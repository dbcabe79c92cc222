-- Where the ledger says that these Stripe objects' facts are kept.
SELECT id, root FROM stripe_objects WHERE id = ANY (%(ids)s)
