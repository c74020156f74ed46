"""Processes that read for one that trains: a notice to all of them ends none, and they end with it however it ends."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import signal

from mmjax.data.config import DataConfig
from mmjax.data.loader import train_batches
from mmjax.data.opened import open_training
from mmjax.data.tokenizer import Tokenizer

if __name__ == "__main__":
    noticed = []
    signal.signal(signal.SIGTERM, lambda *_: noticed.append(True))
    config = DataConfig(num_workers=2, num_threads=1, batch_size=64)
    data, tokenizer = open_training(config), Tokenizer.load("emoji")
    batches = train_batches(config, data.records, tokenizer, seed=1, start_step=0, num_steps=10**6)
    next(batches)
    print("reads", flush=True)
    while not noticed:
        next(batches)
    for _ in range(40):
        next(batches)
    print("read on", flush=True)
    while True:
        next(batches)
"""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, which has begun to read."""
    program = tmp_path / "reads.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reads\n"
    yield process
    # With those of its group that a fault may have left.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_notice_to_all_ends_no_worker_and_they_end_with_the_reader(reader: subprocess.Popen[str]) -> None:
    workers = [child for child in psutil.Process(reader.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    os.killpg(reader.pid, signal.SIGTERM)
    assert reader.stdout.readline() == "read on\n"
    reader.kill()
    _, left = psutil.wait_procs(workers, timeout=20)
    assert not [worker for worker in left if worker.status() != psutil.STATUS_ZOMBIE]


def test_a_worker_that_is_killed_is_an_error(reader: subprocess.Popen[str]) -> None:
    worker = next(child for child in psutil.Process(reader.pid).children() if "spawn_main" in " ".join(child.cmdline()))
    worker.kill()
    assert reader.wait(timeout=60) == 1
