#!/usr/bin/env bash
# Trains the small SigLIP of configs/emoji_siglip.py on the embedded emoji, evaluates it, writes a report, and exports it
# in the format of Hugging Face.
#
#   bash launch/quickstart.sh [--with-torch] [WORKDIR]
#
# WORKDIR is runs/quickstart in the repository unless given. With --with-torch it also installs PyTorch and proves that
# the export is the model that was trained. Run it again to continue or to score the finished run.
# The exit status is that of the first command that fails.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

USAGE="bash launch/quickstart.sh [--with-torch] [WORKDIR]"
WITH_TORCH=""
if [ "${1:-}" = --with-torch ]; then
  WITH_TORCH=yes
  shift
fi
[ $# -le 1 ] || fail "one folder at most: $USAGE"
case "${1:-}" in
  "") WORKDIR="$ROOT/runs/quickstart" ;;
  -*) fail "$1 is no folder: $USAGE" ;;
  /*) WORKDIR="$1" ;;
  *) WORKDIR="$PWD/$1" ;;
esac

make_environment
install_requirements requirements.txt
[ -z "$WITH_TORCH" ] || install_requirements requirements-export.txt

cd "$ROOT"
PYTHON="$VENV/bin/python"
"$PYTHON" -m mmjax.train --config configs/emoji_siglip.py --workdir "$WORKDIR"
"$PYTHON" -m mmjax.evaluate --workdir "$WORKDIR" --json "$WORKDIR/evaluation.json"
"$PYTHON" -m mmjax.report --workdir "$WORKDIR"
if [ -n "$WITH_TORCH" ]; then
  "$PYTHON" -m mmjax.export --workdir "$WORKDIR" --to huggingface --out "$WORKDIR/huggingface" --proof
else
  "$PYTHON" -m mmjax.export --workdir "$WORKDIR" --to huggingface --out "$WORKDIR/huggingface" --no-proof
fi

"$PYTHON" - "$WORKDIR/evaluation.json" <<'PYTHON'
import json
import sys

retrieval = json.load(open(sys.argv[1]))["retrieval"]
reached, among = retrieval["image_to_text"]["r@1"], retrieval["num_candidates"]
print(f"\nReached: the right caption comes first for {reached:.1%} of the images, among {among} candidates.")
PYTHON
cat <<END
Look at: $WORKDIR/report.html
Load in PyTorch, with transformers: $WORKDIR/huggingface
Run next:
  $PYTHON -m mmjax.train --config configs/emoji_siglip_conv.py --workdir $ROOT/runs/conv   the same with convolutions below
  $PYTHON -m mmjax.evaluate --workdir $WORKDIR --data imagefolder:DIR   score it on your own pictures
END
