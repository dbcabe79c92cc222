-- The payment that the source of a balance transaction belongs to, as Stripe states it: its PaymentIntent, otherwise its
-- charge. It ties a refund to its donation of which no event has named the refund.
ALTER TABLE balance_transactions ADD COLUMN payment_id text;
