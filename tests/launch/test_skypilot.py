"""launch/skypilot.yaml: what it runs on a node, and, where SkyPilot is installed, its schema."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
PATH = ROOT / "launch" / "skypilot.yaml"


def task() -> dict[str, Any]:
    return yaml.safe_load(PATH.read_text())


def test_each_node_runs_one_process_of_the_run(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/bash\necho "$MMJAX_COORDINATOR $MMJAX_NUM_PROCESSES $MMJAX_PROCESS_ID $JAX_PLATFORMS $*"\n'
    )
    python.chmod(0o755)
    variables = {
        **{"SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"},
        **{
            "CONFIG": "a.py",
            "WORKDIR": "/runs/my run",
            "ARGUMENTS": "--config.a=1 --config.b=2",
            "PYTHON": str(python),
        },
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "MMJAX_"))}
    said = subprocess.run(
        ["bash", "-c", task()["run"]], env=clean | variables, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    trainer = "-m mmjax.train --config a.py --workdir /runs/my run --config.a=1 --config.b=2"
    assert said == f"10.0.0.7:8476 2 1 cuda,cpu {trainer}\n"


def test_a_saved_run_is_recovered_without_being_counted() -> None:
    recovery = task()["resources"]["job_recovery"]
    assert (recovery["recover_on_exit_codes"], recovery["max_restarts_on_errors"]) == ([75], 3)


def test_it_has_the_schema_of_skypilot() -> None:
    sky = pytest.importorskip("sky", reason="the schema is checked where SkyPilot is installed: pip install skypilot")
    assert sky.Task.from_yaml(str(PATH)).num_nodes == 2
