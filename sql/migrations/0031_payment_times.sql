-- Reports of a period (rank_donors.sql, rank_tickets.sql) then read only those parts of the table that have its payments. A
-- block range index costs next to nothing for each donation: payments come in the order of their time, and of a row that is
-- changed later, at another place, the index keeps the time apart.
CREATE INDEX attributions_by_payment ON stripe_attributions
    USING brin (paid_at timestamptz_minmax_multi_ops) WITH (pages_per_range = 32, autosummarize = on);
