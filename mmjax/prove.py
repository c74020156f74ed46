"""Proves an export: `python -m mmjax.prove DIR`. Needs PyTorch and the library of its format, and no JAX.

It loads the export through the public library, compares it with the outputs of the trained model that it carries, and
writes `parity.json` into it.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmjax.ending import status
from mmjax.errors import UserError
from mmjax.proof.facts import read_facts

PARITY = "parity.json"


def main(arguments: Sequence[str]) -> None:
    export = parsed(arguments).export
    try:
        print(prove(export))
    except Unequal as difference:
        # Nothing that failed keeps the look of an export.
        raise UserError(f"{difference}; it was moved to {set_aside(export)}") from difference


class Unequal(UserError):
    """The export is not the model that was trained."""


def set_aside(export: Path) -> Path:
    """Moves an export that failed to `NAME.failed`, where an earlier one gives way, and returns the new place."""
    failed = export.with_name(f"{export.name}.failed")
    shutil.rmtree(failed, ignore_errors=True)
    return export.rename(failed)


def prove(export: Path) -> str:
    """Writes `parity.json`, and returns the line that says how near the export is.

    Raises:
        Unequal: it is further away than the bars allow.
        UserError: it is no export, or a library is missing: that says nothing of it.
    """
    facts = read_facts(export)
    comparison, public, sample = _rooms()
    result = comparison.parity(export, sample.read(export), public.load(export, facts))
    (export / PARITY).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if result["failures"]:
        raise Unequal(f"the export is not the model that was trained: {'; '.join(result['failures'])}: do not use it")
    return f"proven: {comparison.in_a_line(result)}"


def _rooms() -> Any:
    try:
        from mmjax.proof import comparison, public, sample
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -r requirements-export.txt") from error
    return comparison, public, sample


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mmjax.prove", description="Compares an export with its reference.")
    parser.add_argument("export", type=Path, help="folder that python -m mmjax.export wrote")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(status(main, sys.argv[1:]))
