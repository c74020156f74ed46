#!/usr/bin/env bash
# One task of slurm.sbatch: runs the command that it is given, and ends with a status that srun can compare.
set -uo pipefail
# shellcheck source=launch/slurm_status.sh
source "$(dirname "${BASH_SOURCE[0]}")/slurm_status.sh"

trap : TERM # SLURM signals the command too, which saves: this shell only waits for it
"$@"
status=$?
case "$status" in
  0 | "$AGAIN") exit "$status" ;;
  "$STOPPED_EARLY") exit "$AGAIN" ;;
  "$WRONG_INPUT") first="$WRONG_INPUT_FIRST" ;;
  *) first="$CRASH_FIRST" ;;
esac
echo "slurm: task ${SLURM_PROCID:-?} on $(hostname) ended with status $status" >&2
exit "$first"
