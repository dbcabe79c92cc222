-- Adds to totals what a verification found missing. Totals are sums, so this is right beside live traffic as well.
INSERT INTO ticket_totals AS t
       (ticket_id, currency, paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded)
SELECT ticket, currency, paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded
FROM json_to_recordset(%(missing)s::json)
     AS m(ticket text, currency text, paid_minor bigint, refunded_minor bigint, disputed_minor bigint, paid bigint,
          refunded bigint, disputed bigint, partially_refunded bigint)
ON CONFLICT (ticket_id, currency) DO UPDATE SET
    paid_minor = t.paid_minor + excluded.paid_minor,
    refunded_minor = t.refunded_minor + excluded.refunded_minor,
    disputed_minor = t.disputed_minor + excluded.disputed_minor,
    paid = t.paid + excluded.paid, refunded = t.refunded + excluded.refunded,
    disputed = t.disputed + excluded.disputed,
    partially_refunded = t.partially_refunded + excluded.partially_refunded
