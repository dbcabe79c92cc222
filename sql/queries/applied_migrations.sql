-- The schema's history, as this database has it.
SELECT name, sha256 FROM schema_migrations
