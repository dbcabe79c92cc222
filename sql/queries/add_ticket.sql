-- Adds a ticket, or changes the title or currency of one that exists, where these are given. Returns whether it is new.
INSERT INTO recording_tickets AS t (id, title, currency)
VALUES (%(id)s, coalesce(%(title)s, ''), %(currency)s)
ON CONFLICT (id) DO UPDATE SET
    title = coalesce(%(title)s, t.title), currency = coalesce(%(currency)s, t.currency)
RETURNING xmax = 0 AS is_new
