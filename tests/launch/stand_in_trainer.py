#!/usr/bin/env python3
"""Stands in for `python -m mmjax.train` where a launcher is tested: it keeps the same contract, and starts at once.

It counts to the number of its option `--steps`, in a file of its own in the workdir. After SIGTERM it saves and ends
with 75; started again, it goes on. With `--ends 2,75` the first process ends with status 2 and the second with 75.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

AGAIN = 75
PROCESS_VARIABLES = ("MMJAX_PROCESS_ID", "SLURM_PROCID", "SKYPILOT_NODE_RANK")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="module")
    parser.add_argument("--config")
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--ends", default="")
    arguments = parser.parse_args()
    process = int(next((os.environ[name] for name in PROCESS_VARIABLES if name in os.environ), "0"))
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    if arguments.ends:
        record(arguments.workdir / f"starts.{process}", 1)
        sys.exit(int(arguments.ends.split(",")[process]))
    count(arguments.workdir / f"steps.{process}", arguments.workdir / f"starts.{process}", arguments.steps)


def count(steps: Path, starts: Path, last: int) -> None:
    """Counts on from what `steps` says; stopped, it takes a moment to save, which must not be cut short."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    record(starts, 1)
    for _ in range(read(steps), last):
        time.sleep(0.05)
        record(steps, 1)
        if stopped:
            time.sleep(0.5)
            sys.exit(AGAIN)


def read(path: Path) -> int:
    return int(path.read_text()) if path.exists() else 0


def record(path: Path, more: int) -> None:
    path.write_text(str(read(path) + more))


if __name__ == "__main__":
    main()
