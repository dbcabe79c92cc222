-- The totals as they are kept, without those that are all zero.
SELECT ticket_id, currency, paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded
FROM ticket_totals
WHERE (paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded)
      <> (0, 0, 0, 0, 0, 0, 0)
