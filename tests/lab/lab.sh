# Sourced by every script of this directory: where the parts are, and the few words that the scripts share.
# shellcheck shell=bash

LAB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${MQTT_OPERATOR_CACHE:-/var/cache/mqtt-operator}
KUBE=$CACHE/kubernetes
BIN=$KUBE/bin
IMAGES=$KUBE/images

say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# usage [EXIT]: prints the comment at the head of the calling script.
usage() {
    sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//;p}' "$0"
    exit "${1:-0}"
}

# need FILE STEP: fails with the one line that says how to get a part.
need() { [ -e "$1" ] || die "$1 is missing: run tests/lab/$2, or tests/run, which does it"; }

# wait_for SECONDS WHAT COMMAND...: until COMMAND succeeds.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "$what: not within its time" >&2; return 1; }
        sleep 0.1
    done
}

# A process is known by its number and its start time: a number alone may belong to somebody else by the time that it is
# stopped, a state directory outlives a reboot.
start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# running FILE: the number in a file that `remember` wrote, if that process still runs.
running() {
    local pid started
    read -r pid started 2>/dev/null <"$1" || return 1
    [ "$(start_time "$pid")" = "$started" ] || return 1
    # A zombie has ended; it waits for whoever started it.
    ! grep -qs '^State:.Z' "/proc/$pid/status" || return 1
    echo "$pid"
}

# remember FILE PID
remember() { echo "$2 $(start_time "$2")" >"$1"; }

# stop FILE [SIGNAL]: ends what `remember` wrote down and waits until it is gone; after a minute it is killed.
stop() {
    local pid tries=0
    if pid=$(running "$1"); then
        kill "-${2:-TERM}" "$pid" 2>/dev/null || true
        while running "$1" >/dev/null; do
            tries=$((tries + 1))
            [ $tries -ne 600 ] || kill -KILL "$pid" 2>/dev/null || true
            sleep 0.1
        done
    fi
    rm -f "$1"
}

# daemon FILE LOG COMMAND...: COMMAND in a session of its own, its number in FILE, its output in LOG.
daemon() {
    local file=$1 log=$2
    shift 2
    setsid "$@" >"$log" 2>&1 </dev/null &
    remember "$file" $!
}
