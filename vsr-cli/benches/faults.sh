#!/usr/bin/env bash
# What clients notice when a backup dies, and when one is stopped (SIGSTOP) and goes on.
#
# Three vsr-node processes, load on the primary's RESP port, and a fault in the middle. From the
# timeline of answers: the throughput before the fault and after it, how long it took until a tenth
# of a second had at least 80 % of the throughput before, and the longest pause. Afterwards all replicas
# that run must hold the same state. Both figures are of one run, and only their ratio means anything.
#
# Needs release builds of vsr-node and vsr-cli.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: faults.sh [--seconds N] [--clients N] [--pipeline N] [--bin DIR] [--backup I]
  --seconds N   how long each of the phases lasts: before, during, and after the fault (4)
  --clients N   how many connections load the primary (50)
  --pipeline N  how many commands each has in flight (1)
  --backup I    which backup the fault hits (1, the first of the chain)
  --bin DIR     where vsr-node and vsr-cli are (target/release beside this script's workspace)
TEXT
}

seconds=4 clients=50 pipeline=1 backup=1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${CARGO_TARGET_DIR:-$here/../../target}/release
while (($#)); do
    case $1 in
        --seconds) seconds=$2; shift 2 ;;
        --clients) clients=$2; shift 2 ;;
        --pipeline) pipeline=$2; shift 2 ;;
        --backup) backup=$2; shift 2 ;;
        --bin) bin=$2; shift 2 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
[[ $seconds =~ ^[1-9][0-9]?$ ]] || { echo "--seconds is 1 to 99" >&2; exit 2; }
[[ $backup =~ ^[12]$ ]] || { echo "--backup is 1 or 2" >&2; exit 2; }
# shellcheck source=servers.sh
source "$here/servers.sh"

# Reads the timeline: the phase before, the time until 80 % are back, the phase after that.
analyse() { # name, file, fault at ms, phase ends at ms
    awk -F, -v name="$1" -v fault="$3" -v end="$4" '
        NR > 1 { at[n] = $1; count[n] = $2; n++ }
        END {
            for (i = 0; i < n; i++) if (at[i] >= fault / 4 && at[i] < fault - 100) { before += count[i]; steps++ }
            if (!steps || !before) { print name ": no load before the fault"; exit 1 }
            rate = before / steps
            for (i = 0; i < n; i++) {
                if (at[i] < fault || at[i] >= end) continue
                if (count[i] == 0) { pause += 20; if (pause > longest) longest = pause } else pause = 0
            }
            for (i = 0; i < n; i++) if (at[i] >= fault + 500 && at[i] < end) { after += count[i]; late++ }
            dip = first_dip(fault, end, rate)
            printf "  %-26s %10.0f/s %10.0f/s %8.2f %12s %10d ms\n", name, rate * 50, after / late * 50, \
                (after / late) / rate, dip, longest
        }
        # From the first tenth of a second (five steps) after the fault below 80 % to the next above.
        function first_dip(fault, end, rate,    i, k, sum, low) {
            low = -1
            for (i = 0; i + 5 <= n; i++) {
                if (at[i] < fault || at[i] >= fault + 1500) continue
                sum = 0
                for (k = 0; k < 5; k++) sum += count[i + k]
                if (low < 0 && sum < 0.8 * 5 * rate) low = at[i]
                else if (low >= 0 && sum >= 0.8 * 5 * rate) return (at[i] - low) " ms"
            }
            return low < 0 ? "no dip" : "not back"
        }' "$2"
}

load() { # file, duration in seconds
    "$bin/vsr-cli" bench --resp "${resps[0]}" --clients "$clients" --pipeline "$pipeline" --size 128 \
        --warmup 0s --duration "$2s" --timeline "$1" -o json >"$scratch/bench.json" 2>"$scratch/bench.err" &
    load_pid=$!
}

report_errors() {
    wait "$load_pid" || { echo "the load failed:" >&2; cat "$scratch/bench.err" >&2; exit 1; }
    if ! grep -Eq '"errors": *(0|\{\})' "$scratch/bench.json"; then
        echo "  errors: $(tr -d '\n' <"$scratch/bench.json" | grep -oE '"errors".{0,120}')"
    fi
}

printf '%s clients, %s deep, 128-byte SETs through the primary; the fault hits R%s\n' "$clients" "$pipeline" "$backup"
printf '  %-26s %12s %12s %8s %12s %13s\n' fault before after ratio "below 80 %" "no answer for"

start_cluster faults
load "$scratch/kill.csv" $((2 * seconds))
sleep "$seconds"
kill -KILL "${pids[$backup]}"
report_errors
analyse "killed (SIGKILL)" "$scratch/kill.csv" $((1000 * seconds)) $((2000 * seconds))
stop_servers

start_cluster faults
load "$scratch/stop.csv" $((3 * seconds))
sleep "$seconds"
kill -STOP "${pids[$backup]}"
sleep "$seconds"
kill -CONT "${pids[$backup]}"
report_errors
analyse "stopped (SIGSTOP)" "$scratch/stop.csv" $((1000 * seconds)) $((2000 * seconds))
analyse "  and went on (SIGCONT)" "$scratch/stop.csv" $((2000 * seconds)) $((3000 * seconds))
began=$(date +%s%N)
until_success "$bin/vsr-cli" verify
printf 'R%s caught up from the journals of the others: all three hold the same state %d ms after the load.\n' \
    "$backup" $((($(date +%s%N) - began) / 1000000))
