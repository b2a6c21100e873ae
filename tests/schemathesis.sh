#!/bin/sh
# Sends random requests to the service at $1, at most $2 of a kind for each operation, with the token and without it, and checks the
# answers against the service's own description. `make schemathesis` runs it.
set -eu
url=$1 examples=$2
token=${TOKEN:-$(sed -n 's/^API_TOKENS=dev=//p' .env.dev)}
# It keeps its records in the current directory.
cd target/schemathesis

run() {
    bin/schemathesis --config-file ../../tests/schemathesis.toml run "$url/api/openapi.json" --url "$url" --checks all \
        --max-examples "$examples" --continue-on-failure "$@"
}

failed=0
echo "With the token:"
run --header "Authorization: Bearer $token" || failed=1
echo "Without it:"
run || failed=1
exit $failed
