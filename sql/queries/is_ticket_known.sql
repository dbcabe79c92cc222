-- Whether a ticket exists, or a donation or an entry of the journal names it.
SELECT EXISTS (SELECT FROM recording_tickets WHERE id = %(ticket)s)
       OR EXISTS (SELECT FROM stripe_attributions WHERE ticket_id = %(ticket)s)
       OR EXISTS (SELECT FROM ledger_entries WHERE ticket_id = %(ticket)s) AS is_known
