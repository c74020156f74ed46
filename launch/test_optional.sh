#!/usr/bin/env bash
# Tests of what has an environment of its own: Apache Beam, the TPU compiler, TFDS with TensorFlow (minutes, the first
# time).
#
#   bash launch/test_optional.sh
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

make_environment
install_requirements requirements-dev.txt
cd "$ROOT"
FAILED=()

# The tests of one file, in the environment .venv-NAME with requirements-NAME.txt, without the libraries that training has.
check() {
  local name="$1"
  echo "== $name"
  (
    VENV="$ROOT/.venv-$name"
    make_environment
    install_requirements "requirements-$name.txt" --no-deps
    "$VENV/bin/python" -m pip install -qq --disable-pip-version-check "pytest>=9.2,<10"
    TF_CPP_MIN_LOG_LEVEL=3 "$VENV/bin/python" -m pytest -q --confcutdir=tests/optional "tests/optional/test_$name.py"
  ) || FAILED+=("$name")
}

check beam
check plan
check tensorflow

[ ${#FAILED[@]} -eq 0 ] || { echo "Failed: ${FAILED[*]}" >&2; exit 1; }
echo "All checks passed."
