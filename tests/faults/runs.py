"""Runs as their own processes, which faults may break: the tiny config on a folder of images."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmjax import assembly, ending, train
from mmjax.experiment import from_values
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training.checkpoint import RECORD, STATE, Checkpoints
from mmjax.training.integrity import ARRAYS
from mmjax.training.jsonl import read_lines
from mmjax.training.record import FILE
from mmjax.training.state import TrainState
from mmjax.workdir import CHECKPOINTS, read_config

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "tiny_config.py"
VICTIM = ROOT / "tests" / "faults" / "victim.py"
QUICK = ("--config.logs.metrics.tensorboard=False",)
"""The import of a viewer is not what these tests are about."""


class Runs:
    """Starts training on one folder of data; programs are compiled once for all of them."""

    def __init__(self, data: Path, compiled: Path, *overrides: str, num_devices: int = 1):
        self._arguments = [f"--config={CONFIG}", f"--data=imagefolder:{data}", *QUICK, *overrides]
        flags = {"JAX_COMPILATION_CACHE_DIR": compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0}
        flags |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": 1, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": num_devices}
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MMJAX_", "JAX_", "XLA_"))}
        self._environment = {**own, **{name: str(value) for name, value in flags.items()}, "PYTHONPATH": str(ROOT)}

    def inside(self, workdir: Path, *overrides: str) -> int:
        """The status of a start in the process of the tests, which is several times as fast."""
        return ending.status(train.main, [*self._arguments, f"--workdir={workdir}", *overrides])

    def start(
        self, workdir: Path, *overrides: str, fault: str = "", folder: Path = ROOT, **environment: str
    ) -> subprocess.Popen[str]:
        """A process in `folder` of the run in `workdir`; `fault` is one of `victim`, which it does to itself."""
        program = [str(VICTIM)] if fault else ["-m", "mmjax.train"]
        command = [sys.executable, *program, *self._arguments, f"--workdir={workdir}", *overrides]
        return self._open(command, folder, FAULT=fault, **environment)

    def start_locally(self, workdir: Path, launcher: list[str], *overrides: str) -> subprocess.Popen[str]:
        """`launch/local.sh` with the arguments `launcher`, on the run in `workdir`."""
        script = ["bash", str(ROOT / "launch" / "local.sh"), *launcher, "--"]
        return self._open([*script, *self._arguments, f"--workdir={workdir}", *overrides], ROOT, PYTHON=sys.executable)

    def finish(self, workdir: Path, *overrides: str, **options: Any) -> tuple[int, str]:
        """The status and the error output of a start that goes on until it ends."""
        return ended(self.start(workdir, *overrides, **options))

    def _open(self, command: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
        options: dict[str, Any] = {"env": {**self._environment, **environment}, "cwd": folder, "text": True}
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, **options
        )


def ended(process: subprocess.Popen[str], timeout_secs: float = 240) -> tuple[int, str]:
    """Its status and its error output, without what the libraries say of connections."""
    with killed_afterwards(process):
        _, errors = process.communicate(timeout=timeout_secs)
    return process.returncode, "\n".join(line for line in errors.splitlines() if not line.startswith("[Gloo]"))


@contextmanager
def killed_afterwards(process: subprocess.Popen[str]) -> Iterator[None]:
    """Leaves nothing of a process behind, nor of those that it started."""
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], timeout_secs: float = 120) -> None:
    end = time.monotonic() + timeout_secs
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def steps(workdir: Path) -> list[int]:
    return [line["step"] for line in read_lines(workdir / "metrics.jsonl")]


def losses(workdir: Path) -> np.ndarray:
    return np.array([line["loss"] for line in read_lines(workdir / "metrics.jsonl")])


def saved_steps(workdir: Path) -> list[int]:
    """Steps of the checkpoints that were saved whole."""
    folder = workdir / CHECKPOINTS
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def damage(path: Path, kind: str) -> None:
    """Flips a "bit" of a file, leaves "half" of it, or makes it "missing"."""
    content = bytearray(path.read_bytes())
    if kind == "bit":
        content[random.Random(0).randrange(len(content))] ^= 1
    path.write_bytes(content[: len(content) // 2] if kind == "half" else content)
    if kind == "missing":
        path.unlink()


def largest_file(workdir: Path, step: int) -> Path:
    """Of the arrays of a checkpoint."""
    state = workdir / CHECKPOINTS / str(step) / STATE
    return max((path for path in state.rglob("d/*") if path.is_file()), key=lambda path: path.stat().st_size)


def assert_same_run(run: Path, other: Path) -> None:
    """Both ended with the same state, bit for bit, and logged the same numbers, each step once."""
    mine, theirs = (list(read_lines(folder / "metrics.jsonl")) for folder in (run, other))
    assert [line["step"] for line in mine] == list(range(1, len(theirs) + 1))
    assert [line["loss"] for line in mine] == [line["loss"] for line in theirs]
    assert (run / "evals.jsonl").read_text() == (other / "evals.jsonl").read_text()
    assert final_checksums(run) == final_checksums(other)


def final_state(workdir: Path) -> TrainState:
    """The state of the last checkpoint, on one device."""
    experiment = from_values(read_config(workdir))
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    checkpoints = Checkpoints(workdir / CHECKPOINTS, read_only=True)
    with jax.set_mesh(mesh):
        state, _ = checkpoints.restore(assembly.program(experiment, mesh).abstract_state)
    checkpoints.close()
    return jax.device_get(state)


def final_checksums(workdir: Path) -> dict[str, dict[str, object]]:
    """Shape, type and checksum of every array of the last checkpoint, as it was saved."""
    step = workdir / CHECKPOINTS / str(saved_steps(workdir)[-1])
    return json.loads((step / RECORD / FILE).read_text())[ARRAYS]
