#!/usr/bin/env bash
# Trains the small SigLIP of configs/emoji_siglip.py on the embedded emoji, evaluates it and writes a report.
#
#   bash launch/quickstart.sh [WORKDIR]
#
# WORKDIR is runs/quickstart in the repository unless given. Run it again to continue or to score the finished run.
# The exit status is that of the first command that fails.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[ $# -le 1 ] || fail "one argument at most: bash launch/quickstart.sh [WORKDIR]"
case "${1:-}" in
  "") WORKDIR="$ROOT/runs/quickstart" ;;
  -*) fail "$1 is no folder: bash launch/quickstart.sh [WORKDIR]" ;;
  /*) WORKDIR="$1" ;;
  *) WORKDIR="$PWD/$1" ;;
esac

make_environment
install_requirements requirements.txt

cd "$ROOT"
PYTHON="$VENV/bin/python"
"$PYTHON" -m mmjax.train --config configs/emoji_siglip.py --workdir "$WORKDIR"
"$PYTHON" -m mmjax.evaluate --workdir "$WORKDIR" --json "$WORKDIR/evaluation.json"
"$PYTHON" -m mmjax.report --workdir "$WORKDIR"

"$PYTHON" - "$WORKDIR/evaluation.json" <<'PYTHON'
import json
import sys

retrieval = json.load(open(sys.argv[1]))["retrieval"]
reached, among = retrieval["image_to_text"]["r@1"], retrieval["num_candidates"]
print(f"\nReached: the right caption comes first for {reached:.1%} of the images, among {among} candidates.")
PYTHON
cat <<END
Look at: $WORKDIR/report.html
Run next:
  $PYTHON -m mmjax.train --config configs/emoji_siglip_conv.py --workdir $ROOT/runs/conv   the same with convolutions below
  $PYTHON -m mmjax.evaluate --workdir $WORKDIR --data imagefolder:DIR   score it on your own pictures
END
