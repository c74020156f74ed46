#!/usr/bin/env bash
# One process of a run, where the environment already says which: sets the platform's flags, then becomes the trainer.
#
#   bash launch/train.sh --config FILE --workdir DIR [...]
#
# The container and the launchers for clouds call it. PYTHON names the interpreter (python).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/platform.sh
source launch/platform.sh
exec "${PYTHON:-python}" -m mmjax.train "$@" # signals reach the trainer itself
