-- For each name: whether such a table is on the search path, and whether this role may read it.
SELECT t.name,
       to_regclass(quote_ident(t.name)) IS NOT NULL,
       coalesce(has_table_privilege(to_regclass(quote_ident(t.name)), 'SELECT'), false)
FROM unnest(%(names)s::text[]) AS t(name)
