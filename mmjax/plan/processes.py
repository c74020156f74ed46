"""Plans that are made in processes of their own, a few at a time, and kept: a second search asks for none twice."""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from mmjax.versions import versions

BYTES_EACH = 6 * 2**30
"""What a process needs that compiles a step of a large model."""
CORES_EACH = 2
COMPILERS = ("libtpu", "jax-cuda12-plugin", "jax-cuda12-pjrt")
FOLDER = Path("runs") / "plan_cache"


@dataclass(frozen=True)
class Request:
    """What is planned: the arguments of `python -m mmjax.plan`, and the whole config that they come to."""

    arguments: tuple[str, ...]
    config: str
    """As JSON."""

    @property
    def file_name(self) -> str:
        """The same for the same config, machine and versions."""
        machine = sorted(argument for argument in self.arguments if argument.startswith(("--topology", "--slices")))
        said = json.dumps([self.config, machine, versions(), compilers()], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:24] + ".json"


@dataclass(frozen=True)
class Answer:
    request: Request
    plan: dict[str, Any] | None
    reason: str
    """Why there is no plan; "" where there is one."""


def compilers() -> dict[str, str]:
    """Versions of those that are installed."""
    installed = {}
    for name in COMPILERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def num_workers() -> int:
    """How many fit beside each other: by cores, and by the memory that is free."""
    free = psutil.virtual_memory().available // BYTES_EACH
    return int(max(1, min(free, (os.cpu_count() or 1) // CORES_EACH)))


def answers(requests: Sequence[Request], folder: Path = FOLDER) -> Iterator[Answer]:
    """The plans, as they come. Those that were made before are read from `folder`, where new ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(num_workers()) as pool:
        waiting = [pool.submit(_answer, request, folder) for request in requests]
        try:
            for done in concurrent.futures.as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _answer(request: Request, folder: Path) -> Answer:
    file = folder / request.file_name
    reason = ""
    if not file.is_file():
        command = [sys.executable, "-m", "mmjax.plan", *request.arguments, f"--json={file}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        reason = errors[-1].removeprefix("error: ") if errors else f"ended with status {done.returncode}"
    if not file.is_file():
        return Answer(request, None, reason)
    return Answer(request, json.loads(file.read_text()), "")
