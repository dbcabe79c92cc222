-- What the donations of all tickets, and of none, add up to, per currency.
SELECT currency, sum(paid_minor)::bigint AS paid_minor, sum(refunded_minor)::bigint AS refunded_minor,
       sum(disputed_minor)::bigint AS disputed_minor, sum(paid + refunded + disputed)::bigint AS donations
FROM ticket_totals
WHERE currency <> ''
GROUP BY currency
HAVING sum(paid + refunded + disputed) > 0
ORDER BY donations DESC, currency
