-- What the journal adds up to, per ticket, currency and kind.
SELECT ticket_id, currency, kind, sum(amount_minor)::bigint FROM ledger_entries GROUP BY 1, 2, 3
