-- For each name: whether there is such a table on the search path, or in a schema there that this role may not use, and
-- whether this role may read it.
SELECT t.name,
       coalesce(to_regclass(quote_ident(t.name)), hidden.oid) IS NOT NULL,
       coalesce(has_table_privilege(to_regclass(quote_ident(t.name)), 'SELECT'), false)
FROM unnest(%(names)s::text[]) AS t(name)
LEFT JOIN pg_namespace n ON quote_ident(n.nspname) = current_setting('search_path')
LEFT JOIN pg_class hidden ON hidden.relnamespace = n.oid AND hidden.relname = t.name
