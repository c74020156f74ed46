#!/usr/bin/env bash
# Stands in for gcloud where launch/tpu_vm.sh is tested: a queued resource in the folder FAKE_GCLOUD.
#
# `state` holds its state (no file: it does not exist), `calls` every call, and `script` a line for each training to
# come: the statuses of the workers and the state afterwards, as in "75,75 ACTIVE" or "- SUSPENDED" (connection lost).
set -euo pipefail
cd "$FAKE_GCLOUD"
VERB="$4"
shift 4
printf '%q ' "$VERB" "$@" >>calls
echo >>calls

# The state; one that waits is active when it is asked for again.
next_state() {
  [ ! -e state ] || cat state
  ! grep -q WAITING state 2>/dev/null || echo ACTIVE >state
}

# As gcloud does it: the workers' output, and the status of the first that failed.
train() {
  local statuses state status result=0
  read -r statuses state <script
  sed -i 1d script
  echo "$state" >state
  [ "$statuses" != - ] || return 255
  for status in ${statuses//,/ }; do
    echo "tpu_vm: worker ended with status $status"
    [ "$result" != 0 ] || result="$status"
  done
  return "$result"
}

case "$VERB $*" in
  list*) next_state ;;
  create*) echo WAITING_FOR_RESOURCES >state ;;
  delete*) rm state ;;
  ssh*"tpu_vm_worker.sh train"*) train ;;
esac
