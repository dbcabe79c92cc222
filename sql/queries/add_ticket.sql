-- Adds a ticket, or gives a known one another title or currency where these are named. Says whether it is new.
INSERT INTO recording_tickets AS t (id, title, currency)
VALUES (%(id)s, coalesce(%(title)s, ''), %(currency)s)
ON CONFLICT (id) DO UPDATE SET
    title = coalesce(%(title)s, t.title), currency = coalesce(%(currency)s, t.currency)
RETURNING xmax = 0
