#!/bin/sh
# A PostgreSQL server for the tests, on loopback only, in a directory of its own.
#
#   eval "$(sh scripts/postgres_for_tests.sh)"     prints and sets KIMIYA_TEST_POSTGRES
#   sh scripts/postgres_for_tests.sh stop
#
# Idempotent: a server that runs is used as it is. Debian's package is installed where it is missing
# and this user may; otherwise nothing is printed to stdout, the reason goes to stderr and the tests
# that need a server skip with it.
set -eu

PORT=${KIMIYA_TEST_POSTGRES_PORT:-54329}
HOME_DIR=${KIMIYA_TEST_POSTGRES_DIR:-/tmp/kimiya-test-postgres}
DATA=$HOME_DIR/data

say() { echo "postgres_for_tests: $*" >&2; }

find_bin() {
    for found in /usr/lib/postgresql/*/bin; do
        [ -x "$found/initdb" ] && BIN=$found
    done
    [ -n "${BIN:-}" ]
}

# initdb refuses root: the package's own user does it then.
as_owner() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && exec setpriv --reuid=postgres --regid=postgres --clear-groups "$@")
    else
        "$@"
    fi
}

if ! find_bin; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "PostgreSQL is not installed and cannot be installed here (apt-get install postgresql)"
        exit 0
    fi
    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql) >&2 || true
    find_bin || { say "installing Debian's postgresql failed"; exit 0; }
fi

if [ "${1:-start}" = stop ]; then
    [ -d "$DATA" ] && as_owner "$BIN/pg_ctl" -D "$DATA" -m fast stop >&2 || true
    exit 0
fi

if ! as_owner "$BIN/pg_ctl" -D "$DATA" status >/dev/null 2>&1; then
    mkdir -p "$HOME_DIR"
    [ "$(id -u)" = 0 ] && chown postgres "$HOME_DIR"
    if [ ! -f "$DATA/PG_VERSION" ]; then
        as_owner "$BIN/initdb" -D "$DATA" -U kimiya --auth=trust -E UTF8 --locale=C >"$HOME_DIR/initdb.log" 2>&1 ||
            { say "initdb failed, see $HOME_DIR/initdb.log"; exit 0; }
    fi
    # Nothing here outlives a test, so nothing needs to reach the disk.
    as_owner "$BIN/pg_ctl" -D "$DATA" -l "$HOME_DIR/server.log" -w -t 60 \
        -o "-h 127.0.0.1 -p $PORT -k $HOME_DIR -F -c max_connections=200 -c shared_buffers=32MB" start >&2 ||
        { say "the server does not start, see $HOME_DIR/server.log"; exit 0; }
fi
echo "export KIMIYA_TEST_POSTGRES=postgresql://kimiya@127.0.0.1:$PORT/postgres"
