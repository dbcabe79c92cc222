-- The rows that hold the facts of all donations of some subscriptions. $1 ids
SELECT DISTINCT root FROM stripe_attributions WHERE subscription_id = ANY ($1::text[])
