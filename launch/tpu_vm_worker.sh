#!/usr/bin/env bash
# What tpu_vm.sh runs on every worker of the TPU, in the unpacked repository.
#
#   bash launch/tpu_vm_worker.sh install
#   bash launch/tpu_vm_worker.sh train --config FILE --workdir DIR [...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PID_FILE=trainer.pid

# The Python of the TPU images is older than mmjax needs: uv brings one.
install() {
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --clear --python 3.11 .venv
  python3 -m uv pip install --quiet --python .venv/bin/python --editable ".[tpu]"
}

# A trainer whose launcher went away still holds the chips: it saves and gives them back.
stop_previous() {
  local pid
  pid="$(cat "$PID_FILE" 2>/dev/null)" || return 0
  ! kill -TERM "$pid" 2>/dev/null || timeout 300 tail --pid="$pid" -f /dev/null || kill -KILL "$pid"
}

train() {
  local pid status=0
  stop_previous
  # JAX asks the metadata of the TPU where this worker stands.
  PLATFORM=tpu PYTHON=.venv/bin/python MMJAX_COORDINATOR=auto bash launch/train.sh "$@" &
  pid=$!
  echo "$pid" >"$PID_FILE"
  trap : TERM # a machine that goes down signals the trainer too: this shell waits until it has saved
  while kill -0 "$pid" 2>/dev/null; do
    status=0
    wait "$pid" || status=$?
  done
  [ "$(cat "$PID_FILE")" != "$pid" ] || rm "$PID_FILE"
  echo "tpu_vm: $(hostname) ended with status $status"
  return "$status"
}

"$@"
