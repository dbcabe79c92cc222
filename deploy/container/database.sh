#!/bin/sh
# The image of PostgreSQL runs this once, when its data folder is empty: the role of deploy/roles.sql, and its password.
set -eu
psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'EOS'
\i /roles.sql
\getenv password DONATIOND_PASSWORD
ALTER ROLE donationd PASSWORD :'password';
EOS
