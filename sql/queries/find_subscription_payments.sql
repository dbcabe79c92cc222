-- The rows that contain the facts of all payments of some subscriptions. $1 ids
SELECT DISTINCT root FROM stripe_attributions WHERE subscription_id = ANY ($1::text[])
