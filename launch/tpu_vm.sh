#!/usr/bin/env bash
# Trains on Cloud TPU VMs: asks for a queued resource, trains on all its workers, starts again, and deletes it.
#
#   bash launch/tpu_vm.sh --name NAME --zone ZONE --accelerator v6e-16 [OPTION ...] -- --config FILE --workdir DIR [...]
#
#   --slices N       so many slices of that accelerator (1)
#   --runtime NAME   version of the TPU software (v2-alpha-tpuv6e)
#   --setup COMMAND  run on every worker before training, for example to mount the folder of --workdir
#   --on-demand      not Spot: dearer, and not preempted
#   --keep           leave the TPU at the end
#   --dry-run        print the commands, run none
#
# A preempted TPU is asked for again, status 75 starts training again; other failures do MAX_FAILURES (3) times in a row.
# The same command goes on where an interrupted one was. Needs gcloud, logged in, and an ssh key that ssh-agent holds.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
POLL_SECS="${POLL_SECS:-30}"
MAX_FAILURES="${MAX_FAILURES:-3}"
NAME="" ZONE="" ACCELERATOR="" SLICES=1 RUNTIME=v2-alpha-tpuv6e SETUP=true TIER=(--spot) KEEP="" DRY_RUN=""

fail() {
  echo "error: $*" >&2
  exit 2
}

parse() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --name) NAME="${2:-}" ;;
      --zone) ZONE="${2:-}" ;;
      --accelerator) ACCELERATOR="${2:-}" ;;
      --slices) SLICES="${2:-}" ;;
      --runtime) RUNTIME="${2:-}" ;;
      --setup) SETUP="${2:-}" ;;
      --on-demand) TIER=() && shift && continue ;;
      --keep) KEEP=yes && shift && continue ;;
      --dry-run) DRY_RUN=yes && shift && continue ;;
      --) shift && break ;;
      *) fail "$1 is no option: bash launch/tpu_vm.sh [OPTION ...] -- TRAINER'S ARGUMENTS" ;;
    esac
    [ $# -ge 2 ] || fail "$1 needs a value"
    shift 2
  done
  [ -n "$NAME" ] || fail "--name is needed: what the queued resource is called"
  [ -n "$ZONE" ] || fail "--zone is needed, for example us-east5-b"
  [ -n "$ACCELERATOR" ] || fail "--accelerator is needed, for example v6e-16"
  [ $# -gt 0 ] || fail "say what to train: after '--' come --config FILE --workdir DIR"
  TRAINER=("$@")
}

# One verb of `gcloud compute tpus queued-resources` on this TPU.
tpu() {
  local verb="$1"
  shift
  local command=(gcloud compute tpus queued-resources "$verb" "$@" "--zone=$ZONE")
  if [ -n "$DRY_RUN" ]; then
    { printf '%q ' "${command[@]}" && echo; } >&3
  else
    "${command[@]}"
  fi
}

on_all_workers() {
  tpu ssh "$NAME" --worker=all --node=all --command="cd mmjax && $*"
}

# Empty where there is no such resource; "unknown" where gcloud was not answered, which passes.
state() {
  tpu list --filter="name ~ /$NAME\$" --format="value(state.state)" || echo unknown
}

create() {
  local nodes=(--node-id="$NAME")
  [ "$SLICES" = 1 ] || nodes=(--node-count="$SLICES" --node-prefix="$NAME")
  tpu create "$NAME" --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" "${nodes[@]}" "${TIER[@]}" --async
}

delete() {
  tpu delete "$NAME" --force --quiet
}

# The committed files travel, so that a run is of one version; what is not committed would be lost with the workers.
install() {
  local archive
  archive="$(mktemp --suffix=.tar)"
  git -C "$ROOT" archive --output="$archive" HEAD
  tpu scp "$archive" "$NAME:mmjax.tar" --worker=all --node=all
  rm -f "$archive"
  tpu ssh "$NAME" --worker=all --node=all --command="mkdir -p mmjax && tar -xf mmjax.tar -C mmjax"
  on_all_workers "bash launch/tpu_vm_worker.sh install && $SETUP"
}

# Flags of your own, which are set where the launcher runs, reach the workers.
own_flags() {
  local name
  for name in LIBTPU_INIT_ARGS XLA_FLAGS; do
    [ -z "${!name:-}" ] || printf '%s=%q ' "$name" "${!name}"
  done
}

# What becomes of the run: finished, wrong (input), again, or failed. gcloud gives the status of one worker only, so
# those that all workers print are read: one that lost a peer ends with 75, whatever the peer died of.
train() {
  local status=0 statuses log
  log="$(mktemp)"
  on_all_workers "$(own_flags)bash launch/tpu_vm_worker.sh train $(printf '%q ' "${TRAINER[@]}")" | tee "$log" >&3 || status=$?
  statuses="$(sed -n 's/.*tpu_vm: .* ended with status \([0-9]*\).*/\1/p' "$log" | sort -u)"
  rm -f "$log"
  outcome "$status" "$statuses"
}

# From gcloud's status, and the lines of statuses that the workers printed.
outcome() {
  if [ "$1" = 0 ]; then
    echo finished
  elif grep -qx 2 <<<"$2"; then
    echo wrong
  elif [ -z "$2" ] || grep -qvxE '0|75' <<<"$2"; then
    echo failed
  else
    echo again
  fi
}

finish() {
  [ -n "$KEEP" ] || delete
  exit "$1"
}

# A TPU that is no longer active was taken away: that is no failure of the run.
after_training() {
  case "$1" in
    finished) finish 0 ;;
    wrong) echo "error: wrong input: see the workers' messages above" >&2 && finish 2 ;;
    again) FAILURES=0 ;;
    failed) [ "$(state)" != ACTIVE ] || FAILURES=$((FAILURES + 1)) ;;
  esac
  if [ "$FAILURES" -ge "$MAX_FAILURES" ]; then
    echo "error: $FAILURES failures in a row: read the workers' messages above, then start the same command again" >&2
    finish 1
  fi
  sleep "$POLL_SECS" # a preemption takes a moment to show in the state
}

main() {
  local installed="" now
  FAILURES=0
  while true; do
    now="$(state)"
    echo "tpu_vm: $NAME is ${now:-not there}" >&2
    case "$now" in
      "") create || fail "the queued resource was not created: read gcloud's message above" ;;
      ACTIVE)
        [ -n "$installed" ] || install
        installed=yes
        after_training "$(train)"
        continue
        ;;
      SUSPENDED | FAILED) delete ;;
      *) ;; # waiting in the queue, on its way up or down
    esac
    installed=""
    sleep "$POLL_SECS"
  done
}

# The commands of a run that nothing interrupts, in their order.
dry_run() {
  state
  create
  install
  train >/dev/null
  finish 0
}

parse "$@"
exec 3>&1 # what `train` prints on its standard output is its outcome
if [ -n "$DRY_RUN" ]; then
  dry_run
else
  command -v gcloud >/dev/null || fail "there is no gcloud: install the Google Cloud CLI, then 'gcloud auth login'"
  main
fi
