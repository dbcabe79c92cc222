-- A ticket's own currency (null: the default); no row for an unknown ticket.
SELECT currency FROM recording_tickets WHERE id = %(ticket)s
