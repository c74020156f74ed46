"""What the tests of exports share: the facts of an export, and a proof in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmjax import __version__
from mmjax.experiment import Experiment

ROOT = Path(__file__).parents[2]


def facts_of(experiment: Experiment) -> dict[str, Any]:
    """Of a run that never took a step."""
    return {
        "mmjax_version": __version__,
        "step": 0,
        "ema": False,
        "fingerprint": {},
        "data_licence": "none",
        "evaluation": {},
        "experiment": experiment.to_dict(),
    }


def proven_without(library: str, export: Path) -> "subprocess.CompletedProcess[str]":
    """`mmjax.prove` where this library is missing."""
    code = f"import sys; sys.modules[{library!r}] = None; from mmjax import ending, prove; "
    code += "sys.exit(ending.status(prove.main, sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(export)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
