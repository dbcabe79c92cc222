-- Reports of a period (rank_donors.sql, rank_tickets.sql) then read only those parts of the table that have its payments. A
-- block range index costs next to nothing for each donation, because payments come in the order of their time.
CREATE INDEX attributions_by_payment ON stripe_attributions
    USING brin (paid_at) WITH (pages_per_range = 32, autosummarize = on);
