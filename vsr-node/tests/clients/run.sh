#!/usr/bin/env bash
# The client-compatibility matrix: current Redis clients against every replica of a running cluster.
#
#   vsr-node dev &                                            # or any cluster
#   vsr-node/tests/clients/run.sh 127.0.0.1:6379,127.0.0.1:6380
#
# Name at least the primary and a backup: a backup must behave the same. Each client runs the same
# suite (SET GET INCR MSET MULTI WATCH EXPIRE, pipelines, binary and large values) against each
# address. redis-rs has the same suite in `cargo test -p vsr-node --test redis_rs`.
#
# Clients are installed into $VSR_CLIENTS_DIR (default: a new temporary directory, removed at the
# end), never into this repository. A client whose package manager is missing is skipped and said so.
# Exit code: 0 when nothing failed, 1 when something did, 2 for wrong usage.
set -u

if [ $# -ne 1 ]; then
    echo "usage: $0 HOST:PORT[,HOST:PORT...]" >&2
    exit 2
fi
IFS=, read -r -a addresses <<<"$1"
here=$(cd "$(dirname "$0")" && pwd)
work=${VSR_CLIENTS_DIR:-}
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"
log=$work/log
: >"$log"
failed=0
rows=()

row() { # client version address result
    rows+=("$(printf '%-16s %-10s %-22s %s' "$1" "$2" "$3" "$4")")
    case $4 in failed*) failed=1 ;; esac
}

# Runs a suite against every address: name, version, command...
each() {
    local name=$1 version=$2 address
    shift 2
    for address in "${addresses[@]}"; do
        echo "--- $name $version $address" >>"$log"
        if timeout 60 "$@" "${address%:*}" "${address##*:}" >>"$log" 2>&1; then
            row "$name" "$version" "$address" ok
        else
            row "$name" "$version" "$address" "failed: $(tail -n 1 "$log" | cut -c1-100)"
        fi
    done
}

if command -v python3 >/dev/null; then
    if [ ! -d "$work/python" ]; then
        python3 -m venv "$work/python" >>"$log" 2>&1 &&
            "$work/python/bin/pip" install -q redis >>"$log" 2>&1
    fi
    version=$("$work/python/bin/python" -c 'import redis; print(redis.__version__)' 2>>"$log")
    if [ -n "$version" ]; then
        each redis-py "$version" "$work/python/bin/python" "$here/redis_py.py"
    else
        row redis-py - - "skipped: pip could not install it"
    fi
else
    row redis-py - - "skipped: no python3"
fi

if command -v npm >/dev/null; then
    if [ ! -d "$work/node/node_modules" ]; then
        mkdir -p "$work/node"
        npm install --silent --no-audit --no-fund --prefix "$work/node" redis ioredis >>"$log" 2>&1
    fi
    for client in redis:node-redis:node_redis.js ioredis:ioredis:ioredis.js; do
        IFS=: read -r package name script <<<"$client"
        version=$(node -p "require('$work/node/node_modules/$package/package.json').version" 2>>"$log")
        if [ -n "$version" ]; then
            # Scripts look for packages beside themselves.
            cp "$here/$script" "$here/suite.js" "$work/node/"
            each "$name" "$version" node "$work/node/$script"
        else
            row "$name" - - "skipped: npm could not install it"
        fi
    done
else
    row node-redis - - "skipped: no npm"
    row ioredis - - "skipped: no npm"
fi

# redis-benchmark says on its error stream, or by its exit code, what it does not like.
benchmark() {
    local out
    out=$(redis-benchmark -h "$1" -p "$2" -n 2000 -c 10 -P 8 -d 64 -q \
        -t ping,set,get,incr,mset 2>&1) || { echo "$out" | tail -n 1; return 1; }
    if echo "$out" | grep -qi error; then echo "$out" | grep -i error | tail -n 1; return 1; fi
}
export -f benchmark
if command -v redis-benchmark >/dev/null; then
    version=$(redis-benchmark --version | awk '{print $2}')
    each redis-benchmark "$version" bash -c 'benchmark "$@"' benchmark
else
    row redis-benchmark - - "skipped: not installed (Debian: redis-tools)"
fi

printf '%-16s %-10s %-22s %s\n' client version address result
printf '%s\n' "${rows[@]}"
if [ $failed -ne 0 ]; then
    if [ -n "${VSR_CLIENTS_DIR:-}" ]; then echo "details: $log"; else tail -n 40 "$log"; fi
fi
exit $failed
