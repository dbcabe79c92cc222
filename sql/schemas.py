"""The schema of PostgreSQL that contains one charity's ledger (LEDGER_SCHEMA).

Statements name tables without a schema. The search path of each session names one schema, so that no statement reaches
another charity's ledger, whatever the role's or the server's own search path is. The keys of locks are made from it by
the server (queries/lock_ledger.sql).
"""

PUBLIC = "public"  # the ledger of a database that has only one

# Part of the statement that each new session begins with. PostgreSQL adds pg_catalog by itself, before this schema.
SET_SEARCH_PATH = "set_config('search_path', quote_ident(%(schema)s), false)"
