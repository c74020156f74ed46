#!/usr/bin/env bash
# The long proofs of reliability: many kills of real runs, and one run on several layouts of processes.
#
#   bash tests/faults/soak.sh [KILLS]      100 unless given; each takes a start, 5 to 15 seconds
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/environment.sh"

[ $# -le 1 ] || fail "one argument at most: bash tests/faults/soak.sh [KILLS]"
case "${1:-100}" in *[!0-9]*) fail "$1 is no number of kills: bash tests/faults/soak.sh [KILLS]" ;; esac

make_environment
install_requirements requirements-dev.txt
cd "$ROOT"
PYTHONPATH="$ROOT" "$VENV/bin/python" -m tests.faults.soak --kills "${1:-100}"
"$VENV/bin/python" -m pytest -q -s -m long tests
