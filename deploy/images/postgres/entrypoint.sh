#!/bin/sh
# Makes the database at the first start, then becomes the server. There is nothing here but a shell's own words.
#
#   POSTGRES_USER                                  postgres unless given
#   POSTGRES_PASSWORD, or POSTGRES_PASSWORD_FILE   must be given, for the first start
#   POSTGRES_DB                                    as the user unless given
#
# Arguments go to the server: -c max_connections=200
set -eu
user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
made=$PGDATA/made.complete

if [ ! -e "$made" ]; then
    if [ -e "$PGDATA/PG_VERSION" ]; then
        echo "$PGDATA holds a database whose making was broken off; remove the volume, then start again." >&2
        exit 1
    fi
    password=${POSTGRES_PASSWORD:-}
    if [ -z "$password" ] && [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        read -r password <"$POSTGRES_PASSWORD_FILE" || [ -n "$password" ]
    fi
    if [ -z "$password" ]; then
        echo "POSTGRES_PASSWORD is not set: give one to the container, or a file in POSTGRES_PASSWORD_FILE." >&2
        exit 1
    fi
    umask 077
    printf '%s\n' "$password" >/tmp/password
    initdb --pgdata="$PGDATA" --username="$user" --pwfile=/tmp/password --auth=scram-sha-256 --encoding=UTF8 \
        --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8 --no-instructions
    : >/tmp/password
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    if [ "$database" != postgres ]; then
        printf 'CREATE DATABASE "%s"\n' "$database" | postgres --single -D "$PGDATA" postgres >/dev/null
    fi
    : >"$made"
    echo "PostgreSQL init process complete; ready for start up."
fi
unset POSTGRES_PASSWORD
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp \
    -c log_min_error_statement=panic "$@"
