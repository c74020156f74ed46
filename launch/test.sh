#!/usr/bin/env bash
# Everything that must hold before a commit: lint, types, import rules and tests.
#
#   bash launch/test.sh [PYTEST ARGUMENT ...]
#
# All checks run, even after one has failed; the last line names those that failed, and the exit status is 1 then.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

make_environment
install_requirements requirements-dev.txt
install_weights
cd "$ROOT"
FAILED=()

check() {
  local name="$1"
  shift
  echo "== $name"
  "$@" || FAILED+=("$name")
}

check "ruff check" "$VENV/bin/ruff" check .
check "ruff format" "$VENV/bin/ruff" format --check .
check "mypy" "$VENV/bin/mypy"
check "lint-imports" "$VENV/bin/lint-imports"
check "shellcheck" "$VENV/bin/shellcheck" --external-sources launch/*.sh launch/*.sbatch tests/*/*.sh .ci/run
check "hadolint" "$VENV/bin/hadolint" launch/Containerfile
check "pytest" "$VENV/bin/python" -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations=10 --junitxml=runs/tests.xml "$@"

[ ${#FAILED[@]} -eq 0 ] || { echo "Failed: ${FAILED[*]}" >&2; exit 1; }
echo "All checks passed."
