#!/usr/bin/env bash
# The two logins that the README asks for, made once, when the database is: the owner of the tables,
# whom only migrations use, and the login that serves, which owns nothing.
set -euo pipefail

psql --quiet -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  -v database="$POSTGRES_DB" \
  -v owner_password="$POSTGRES_OWNER_PASSWORD" \
  -v service_password="$POSTGRES_SERVICE_PASSWORD" <<'SQL'
CREATE ROLE tillsync_owner LOGIN CREATEROLE PASSWORD :'owner_password';
CREATE ROLE tillsync LOGIN NOINHERIT PASSWORD :'service_password';
ALTER DATABASE :"database" OWNER TO tillsync_owner;
SQL
