"""The four statements the sidecar sends to PostgreSQL."""

# The smallest question that needs a live server.
PING = "SELECT 1"

# For each name: whether such a table is on the search path, and whether this role may read it.
TABLES = """
SELECT t.name,
       to_regclass(quote_ident(t.name)) IS NOT NULL,
       coalesce(has_table_privilege(to_regclass(quote_ident(t.name)), 'SELECT'), false)
  FROM unnest(%(names)s::text[]) AS t (name)
"""

APPLIED_MIGRATIONS = "SELECT name, sha256 FROM schema_migrations"

# Writing a run twice leaves one row: after a crash between the insert and its note, it is sent again.
RECORD_RUN = """
INSERT INTO health_check_runs (kind, ok, state, detail, at)
SELECT %(kind)s, %(ok)s, %(state)s, %(detail)s, %(at)s::timestamptz
 WHERE NOT EXISTS (
       SELECT FROM health_check_runs
        WHERE at = %(at)s::timestamptz AND kind = %(kind)s AND state = %(state)s)
"""
