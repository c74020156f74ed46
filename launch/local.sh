#!/usr/bin/env bash
# Trains with several processes on this machine, as a cluster would with one on each host.
#
#   bash launch/local.sh --processes 2 --devices-per-process 4 [--restarts 3] -- --config configs/NAME.py --workdir DIR
#
# Each process has so many virtual CPU devices. When one is lost, all are started again, at most `--restarts` times, and
# go on from the last checkpoint; after wrong input (status 2) they are not. TERM and Ctrl-C reach all processes: they
# save, and the status is 75.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# shellcheck source=launch/platform.sh
PLATFORM=cpu source "$(dirname "${BASH_SOURCE[0]}")/platform.sh"

USER_ERROR=2 START_AGAIN=75
# For the others to notice that one was lost, and to end by themselves.
GRACE_SECS=60

usage() {
  fail "$1: bash launch/local.sh --processes N --devices-per-process K [--restarts R] -- --config FILE --workdir DIR"
}

parse() {
  PROCESSES="" DEVICES="" RESTARTS=3
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case "$1" in
      --processes) PROCESSES="${2:-}" ;;
      --devices-per-process) DEVICES="${2:-}" ;;
      --restarts) RESTARTS="${2:-}" ;;
      *) usage "unknown argument $1" ;;
    esac
    case "${2:-}" in "" | *[!0-9]*) usage "$1 needs a number" ;; esac
    shift 2
  done
  [ -n "$PROCESSES" ] && [ -n "$DEVICES" ] || usage "--processes and --devices-per-process are needed"
  [ $# -gt 1 ] || usage "after -- there is nothing to train"
  shift
  COMMAND=("${PYTHON:-$VENV/bin/python}" -m mmjax.train "$@")
}

# Two ports that follow each other, which nobody listens on.
free_port() {
  "${COMMAND[0]}" - <<'PYTHON'
import contextlib
import socket

while True:
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
        first, second = (stack.enter_context(socket.socket()) for _ in range(2))
        first.bind(("", 0))
        port = first.getsockname()[1]
        second.bind(("", port + 1))
        print(port)
        break
PYTHON
}

start_all() {
  local process port
  port="$(free_port)"
  export MMJAX_COORDINATOR="127.0.0.1:$port" MMJAX_NUM_PROCESSES="$PROCESSES"
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$DEVICES"
  PIDS=()
  for ((process = 0; process < PROCESSES; process++)); do
    if [ "$process" = 0 ]; then
      MMJAX_PROCESS_ID=0 "${COMMAND[@]}" &
    else
      MMJAX_PROCESS_ID="$process" "${COMMAND[@]}" > >(sed "s/^/[process $process] /") 2>&1 &
    fi
    PIDS+=("$!")
  done
}

# Waits for all, and kills those that are left long after the first has failed. Sets STATUSES.
wait_for_all() {
  local pid code kill_at=""
  local -a running=("${PIDS[@]}") still
  STATUSES=()
  while [ ${#running[@]} -gt 0 ]; do
    still=()
    for pid in "${running[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then
        still+=("$pid")
        continue
      fi
      code=0
      wait "$pid" 2>/dev/null || code=$?
      STATUSES+=("$code")
      [ "$code" = 0 ] || kill_at="${kill_at:-$((SECONDS + GRACE_SECS))}"
    done
    running=(${still[@]+"${still[@]}"})
    if [ -n "$kill_at" ] && [ "$SECONDS" -ge "$kill_at" ] && [ ${#running[@]} -gt 0 ]; then
      kill -KILL "${running[@]}" 2>/dev/null || true
    fi
    sleep 0.2
  done
}

# The status of the run: of wrong input before all else, then of a crash, after which the others end with 75.
worst_status() {
  local code worst=0
  for code in "${STATUSES[@]}"; do
    case "$code" in
      "$USER_ERROR") worst="$USER_ERROR" && break ;;
      "$START_AGAIN") [ "$worst" != 0 ] || worst="$START_AGAIN" ;;
      0) ;;
      *) worst="$code" ;;
    esac
  done
  echo "$worst"
}

# Processes in the background of a script do not hear Ctrl-C themselves.
SIGNALLED=""
stop() {
  SIGNALLED=yes
  kill -TERM "${PIDS[@]}" 2>/dev/null || true
}

parse "$@"
trap stop TERM INT
for ((start = 0; ; start++)); do
  start_all
  wait_for_all
  status="$(worst_status)"
  if [ "$status" = 0 ] || [ "$status" = "$USER_ERROR" ] || [ -n "$SIGNALLED" ] || [ "$start" -ge "$RESTARTS" ]; then
    exit "$status"
  fi
  echo "status ${STATUSES[*]}: starting again ($((start + 1)) of $RESTARTS)" >&2
done
