#!/bin/sh
# Installs what poolhouse needs and this machine lacks: a C compiler, the PostgreSQL server programs with the
# extension unaccent. If nothing is missing it does nothing, and needs no network and no privileges.
#
#   sh config/install-deps.sh               for building and running
#   sh config/install-deps.sh test          cargo's fmt and clippy, and PgBouncer, as well
#   sh config/install-deps.sh metrics       promtool, unpacked into target/tools (Debian): its package would start a server
#   sh config/install-deps.sh bench-http    wrk as well
#   sh config/install-deps.sh bench-ingest  PostgreSQL's documentation in HTML as well (Debian)
#   sh config/install-deps.sh browser       Chromium as well
set -eu

fail() {
    echo "poolhouse: $*" >&2
    exit 1
}

# The directories that may hold the server programs, as src/bin/poolhouse/dev_postgres/cluster/programs.rs looks for them.
server_directories() {
    pg_config --bindir 2>/dev/null || true
    for directory in /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
        [ -d "$directory" ] && echo "$directory"
    done
    echo "$PATH" | tr ':' '\n'
}

has_server() {
    server_directories | while read -r directory; do
        if [ -x "$directory/postgres" ] && [ -x "$directory/initdb" ]; then
            echo found
            break
        fi
    done | grep -q found
}

# Debian's server packages contain the extensions; other systems may have a separate package.
has_unaccent() {
    for directory in "$(pg_config --sharedir 2>/dev/null)" /usr/share/postgresql/* /usr/share/pgsql \
        /opt/homebrew/share/postgresql* /usr/local/share/postgresql*; do
        [ -e "$directory/extension/unaccent.control" ] && return 0
    done
    return 1
}

# Debian installs it into a directory that is only in root's PATH.
has_pgbouncer() {
    command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || [ -x /usr/local/sbin/pgbouncer ]
}

if ! command -v cargo >/dev/null; then
    # rustup installs it there, and adds it to the PATH of new shells only.
    [ -x "$HOME/.cargo/bin/cargo" ] && fail "cargo is not in PATH: run  . \"\$HOME/.cargo/env\"  first"
    fail "Rust is missing: install it as https://rustup.rs says, then run this again"
fi
if [ "${1:-}" = test ]; then
    cargo fmt --version >/dev/null 2>&1 || fail "rustfmt is missing: rustup component add rustfmt"
    cargo clippy --version >/dev/null 2>&1 || fail "clippy is missing: rustup component add clippy"
fi

if [ "${1:-}" = metrics ] && ! command -v promtool >/dev/null && [ ! -x target/tools/usr/bin/promtool ]; then
    command -v apt-get >/dev/null || fail "promtool is missing: install it with Prometheus, then run this again"
    echo "poolhouse: unpacking promtool into target/tools"
    mkdir -p target/tools
    (cd target/tools && apt-get download prometheus && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool &&
        rm prometheus_*.deb)
fi

missing=
command -v cc >/dev/null || missing="$missing build-essential"
has_server || missing="$missing postgresql"
has_unaccent || missing="$missing postgresql-contrib"
[ "${1:-}" != test ] || has_pgbouncer || missing="$missing pgbouncer"
[ "${1:-}" != bench-http ] || command -v wrk >/dev/null || missing="$missing wrk"
[ "${1:-}" != bench-ingest ] || [ -d /usr/share/doc/postgresql-doc-15/html ] || missing="$missing postgresql-doc-15"
[ "${1:-}" != browser ] || command -v chromium >/dev/null || command -v google-chrome >/dev/null ||
    missing="$missing chromium"
[ -n "$missing" ] || exit 0

if [ "$(uname)" = Darwin ]; then
    case $missing in *build-essential*) echo "poolhouse: run  xcode-select --install" >&2 ;; esac
    case $missing in *postgresql*) echo "poolhouse: run  brew install postgresql" >&2 ;; esac
    case $missing in *pgbouncer*) echo "poolhouse: run  brew install pgbouncer" >&2 ;; esac
    case $missing in *wrk*) echo "poolhouse: run  brew install wrk" >&2 ;; esac
    case $missing in *chromium*) echo "poolhouse: run  brew install --cask google-chrome" >&2 ;; esac
    fail "then run this again"
fi
command -v apt-get >/dev/null ||
    fail "missing:$missing (names as in Debian): install them with this system's package manager, then run this again"

as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "missing: as root run  apt-get install$missing"
    as_root=sudo
fi
echo "poolhouse: installing$missing"
$as_root apt-get update
# Unquoted on purpose: $missing is several words.
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends $missing
