# What the scripts beside this one share: free ports, a cluster of three, and its end. To be sourced,
# with `bin` (where vsr-node and vsr-cli are) set. Sets `scratch`, a folder that is removed at exit, and
# `pids`, the processes that are ended then.
# shellcheck shell=bash

for program in vsr-node vsr-cli; do
    [[ -x $bin/$program ]] || { echo "no $bin/$program: cargo build --release, or --bin DIR" >&2; exit 2; }
done

scratch=$(mktemp -d)
pids=()
stop_servers() {
    ((${#pids[@]})) || return 0
    kill -CONT "${pids[@]}" 2>/dev/null || true
    kill "${pids[@]}" 2>/dev/null || true
    for _ in $(seq 50); do
        kill -0 "${pids[@]}" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
    pids=()
}
trap 'stop_servers; rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

# Sets `port` to one that nobody listens on, below those that the kernel hands out by itself; never the
# same one twice.
next_port=$((20000 + RANDOM % 10000))
free_port() {
    for _ in $(seq 1000); do
        next_port=$((next_port + 1))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$next_port") 2>/dev/null; then
            port=$next_port
            return
        fi
    done
    echo "no free port was found" >&2
    exit 1
}

# Repeats a command until it succeeds, for ten seconds at most.
until_success() {
    for _ in $(seq 100); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "gave up waiting for: $*" >&2
    "$@" >&2 || true
    tail -n 5 "$scratch"/*.log >&2 || true
    exit 1
}

# Starts three replicas and forms a cluster of them. Sets `resps`, their Redis ports, by replica.
start_cluster() { # name
    local natives=() peers index
    resps=()
    for index in 0 1 2; do
        free_port
        natives+=("127.0.0.1:$port")
        free_port
        resps+=("127.0.0.1:$port")
    done
    peers=$(IFS=,; echo "${natives[*]}")
    for index in 0 1 2; do
        # From a subshell, so that this shell does not report a job that a script kills on purpose.
        pids+=("$(
            "$bin/vsr-node" start --cluster "$1" --replica "$index" --peers "$peers" \
                --resp "${resps[$index]}" --no-admin --log-level warn >"$scratch/vsr-$index.log" 2>&1 &
            echo $!
        )")
    done
    export VSR_ENDPOINTS=$peers
    until_success "$bin/vsr-cli" init
    until_success "$bin/vsr-cli" health --all
}
