#!/usr/bin/env bash
# Ours beside what users would otherwise use, on one machine, in one run.
#
#   (a) one redis-server, no persistence          (b) the same with two asynchronous replicas
#   (c) (b), with WAIT 1 after every pipeline      (d) three vsr-node processes
#
# Values of 128 bytes, 50 connections, pipelines of 1, 16 and 64, and one connection for the latency.
# Every round measures a, b, c, d in turn, each on servers that have just been started; figures are
# medians over the rounds, and only their ratios mean anything: such machines drift by 20 % and more.
# redis-benchmark cannot send WAIT, so everything is measured with `vsr-cli bench` too, for columns that
# can be compared.
#
# Needs redis-server and redis-benchmark in the PATH, and release builds of vsr-node and vsr-cli.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: peers.sh [--seconds N] [--rounds N] [--bin DIR] [--via I] [--no-redis-benchmark]
  --seconds N   how long one measurement takes (3); a run takes about 30 * seconds * rounds
  --rounds N    how many rounds to take medians of (3)
  --bin DIR     where vsr-node and vsr-cli are (target/release beside this script's workspace)
  --via I       which of our replicas clients talk to (0, the primary)
TEXT
}

seconds=3 rounds=3 via=0 redis_benchmark=1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${CARGO_TARGET_DIR:-$here/../../target}/release
while (($#)); do
    case $1 in
        --seconds) seconds=$2; shift 2 ;;
        --rounds) rounds=$2; shift 2 ;;
        --bin) bin=$2; shift 2 ;;
        --via) via=$2; shift 2 ;;
        --no-redis-benchmark) redis_benchmark=0; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
for number in "$seconds" "$rounds"; do
    [[ $number =~ ^[1-9][0-9]{0,2}$ ]] || { echo "--seconds and --rounds are 1 to 999" >&2; exit 2; }
done
[[ $via =~ ^[0-2]$ ]] || { echo "--via is 0, 1 or 2" >&2; exit 2; }
for program in redis-server redis-benchmark redis-cli; do
    command -v "$program" >/dev/null || { echo "$program is not in the PATH (Debian: redis)" >&2; exit 2; }
done
# shellcheck source=servers.sh
source "$here/servers.sh"

start_redis() { # how many replicas
    local replicas=$1 master
    free_port
    master=$port
    redis-server --port "$master" --bind 127.0.0.1 --save '' --appendonly no --repl-diskless-sync yes \
        --repl-diskless-sync-delay 0 --dir "$scratch" >"$scratch/redis-$master.log" 2>&1 &
    pids+=($!)
    until_success redis-cli -p "$master" ping
    for _ in $(seq "$replicas"); do
        free_port
        redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$scratch" \
            --replicaof 127.0.0.1 "$master" >"$scratch/redis-$port.log" 2>&1 &
        pids+=($!)
        until_success bash -c "redis-cli -p $port info replication | grep -q master_link_status:up"
    done
    target=127.0.0.1:$master
}

start_ours() {
    start_cluster peers-bench
    target=${resps[$via]}
}

record() { # side, row, value
    [[ $3 =~ ^[0-9]+(\.[0-9]+)?$ ]] || { echo "  side $1: no figure for $2" >&2; return 0; }
    echo "$3" >>"$scratch/$1.$2"
}

# One number out of vsr-cli's JSON.
field() {
    sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p"
}

measure() { # side, further options of vsr-cli bench
    local side=$1 port=${target##*:} depth count json errors
    shift
    for depth in 1 16 64; do
        if ((redis_benchmark)) && [[ $side != c ]]; then
            case $depth in
                1) count=$((50000 * seconds)) ;;
                16) count=$((200000 * seconds)) ;;
                *) count=$((300000 * seconds)) ;;
            esac
            record "$side" "rb$depth" "$(timeout $((seconds * 20 + 20)) redis-benchmark -p "$port" -t set \
                -d 128 -r 100000 -c 50 -P "$depth" -n "$count" --csv 2>/dev/null | tail -1 | cut -d, -f2 | tr -d '"')"
        fi
        json=$("$bin/vsr-cli" -o json bench --resp "$target" --clients 50 --pipeline "$depth" --size 128 \
            --keys 100000 --warmup 500ms --duration "${seconds}s" "$@")
        record "$side" "cli$depth" "$(field operations_per_second <<<"$json")"
        errors=$(field errors <<<"$json")
        ((errors == 0)) || echo "  side $side, pipeline $depth: $errors errors" >&2
    done
    if ((redis_benchmark)) && [[ $side != c ]]; then
        # In milliseconds.
        record "$side" rbp50 "$(timeout $((seconds * 20 + 20)) redis-benchmark -p "$port" -t set -d 128 \
            -r 100000 -c 1 -n $((5000 * seconds)) --csv 2>/dev/null | tail -1 | cut -d, -f5 | tr -d '"' |
            awk '{ print $1 * 1000 }')"
    fi
    json=$("$bin/vsr-cli" -o json bench --resp "$target" --clients 1 --size 128 --keys 100000 \
        --warmup 500ms --duration "${seconds}s" "$@")
    record "$side" clip50 "$(field p50 <<<"$json")"
}

median() { # side, row
    [[ -s $scratch/$1.$2 ]] || { echo -; return; }
    sort -g "$scratch/$1.$2" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

ratio() { # ours, theirs
    awk -v ours="$1" -v theirs="$2" 'BEGIN { if (theirs + 0 > 0 && ours != "-") printf "%.2f", ours / theirs; else print "-" }'
}

row() { # title, row of the records, format of a value
    local a b c d values=() value
    a=$(median a "$2") b=$(median b "$2") c=$(median c "$2") d=$(median d "$2")
    for value in "$a" "$b" "$c" "$d"; do
        [[ $value == - ]] && values+=(-) || values+=("$(awk -v v="$value" -v f="$3" 'BEGIN { printf f, v }')")
    done
    printf ' %-38s %10s %10s %10s %10s   %6s %6s %6s\n' "$1" "${values[@]}" \
        "$(ratio "$d" "$a")" "$(ratio "$d" "$b")" "$(ratio "$d" "$c")"
}

echo "$(redis-server --version | sed 's/ sha.*//') | $("$bin/vsr-node" version | head -1) | $(nproc) cores |" \
    "$rounds rounds of $seconds s | ours through replica $via" >&2
for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    start_redis 0; measure a; stop_servers
    start_redis 2; measure b; stop_servers
    start_redis 2; measure c --wait 1; stop_servers
    start_ours; measure d
    "$bin/vsr-cli" verify >"$scratch/verify" 2>&1 || { echo "  the replicas could not be verified:" >&2; cat "$scratch/verify" >&2; }
    stop_servers
done

printf ' %-38s %10s %10s %10s %10s   %6s %6s %6s\n' "SET, 128 bytes, medians" "(a) alone" "(b) async" \
    "(c) WAIT 1" "(d) ours" d/a d/b d/c
if ((redis_benchmark)); then
    row "redis-benchmark -c 50 -P 1, /s" rb1 %.0f
    row "redis-benchmark -c 50 -P 16, /s" rb16 %.0f
    row "redis-benchmark -c 50 -P 64, /s" rb64 %.0f
fi
row "vsr-cli bench -c 50 -P 1, /s" cli1 %.0f
row "vsr-cli bench -c 50 -P 16, /s" cli16 %.0f
row "vsr-cli bench -c 50 -P 64, /s" cli64 %.0f
((redis_benchmark)) && row "redis-benchmark -c 1, p50, us (less)" rbp50 %.1f
row "vsr-cli bench -c 1, p50, us (less)" clip50 %.1f
