"""Kills real runs at random moments, damages checkpoints, and counts the cost: `python -m tests.faults.soak`.

One record in a hundred is broken. Each run has to end as one that nothing happened to: bit for bit where it stays on
one mesh, with the same losses to the tolerance of a layer where every start draws its own.
"""

import argparse
import random
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import MofNCompleteColumn, Progress

from tests.faults.runs import Runs, assert_same_run, damage, ended, largest_file, losses, saved_steps, steps
from tests.faults.victim import PLACES
from tests.folders import write_image_folder
from tests.tolerances import LAYER

NUM_STEPS = 24
STEPS = (f"--config.train.num_steps={NUM_STEPS}", "--config.checkpoint.every_steps=3", "--config.evals.every_steps=4")
NUM_RECORDS, BAD_RECORDS = 200, 2
NUM_DEVICES = 4
MESHES = ((4, 1, 1), (2, 2, 1), (1, 2, 2), (1, 1, 1))
"""data, fsdp, tensor."""


@dataclass
class Tally:
    """What the faults have cost."""

    kills: int = 0
    notices: int = 0
    damaged: int = 0
    repeated_steps: int = 0
    skipped_records: int = 0
    lost_bytes: int = 0
    finished_runs: int = 0
    mesh_changes: int = 0
    moved_runs: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills survived, {self.notices} notices of preemption heeded, {self.damaged} damaged "
            f"checkpoints set aside, {self.repeated_steps} steps repeated, {self.skipped_records} records skipped, "
            f"bytes lost: {self.lost_bytes}; {self.finished_runs} runs ended bit-identical, {self.moved_runs} more "
            f"with {self.mesh_changes} changes of mesh ended with the same losses"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print(soak(folder, options.kills, random.Random(options.seed)))
    shutil.rmtree(folder)


class Lives:
    """The starts of one run after another, of which every other moves from mesh to mesh."""

    def __init__(self, tiny: Runs, folder: Path, rng: random.Random):
        self.tiny, self.rng, self.tally = tiny, rng, Tally()
        self.workdir, self._whole = folder / "run", folder / "whole"
        self._mesh, self._moves = MESHES[0], False
        start = time.monotonic()
        assert tiny.finish(self._whole, *mesh_flags(self._mesh)) == (0, "")
        self.most_secs = time.monotonic() - start
        """A start that is not killed has ended by then: later ones compile less."""

    def flags(self) -> tuple[str, ...]:
        """Those of the next start."""
        if self._moves:
            before, self._mesh = self._mesh, self.rng.choice(MESHES)
            self.tally.mesh_changes += before != self._mesh and self.workdir.exists()
        return mesh_flags(self._mesh)

    def end(self) -> None:
        """Compares the run, which has ended, with the one that nothing happened to, and makes room for the next."""
        if self._moves:
            assert steps(self.workdir) == steps(self._whole)
            np.testing.assert_allclose(losses(self.workdir), losses(self._whole), rtol=LAYER)
            self.tally.moved_runs += 1
        else:
            assert_same_run(self.workdir, self._whole)
            self.tally.finished_runs += 1
        listed = self.workdir / "bad_records.jsonl"
        self.tally.skipped_records += len(set(listed.read_text().splitlines())) if listed.exists() else 0
        shutil.rmtree(self.workdir)
        self._mesh, self._moves = MESHES[0], not self._moves


def mesh_flags(shape: tuple[int, int, int]) -> tuple[str, ...]:
    return tuple(f"--config.mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), shape, strict=True))


def soak(folder: Path, num_kills: int, rng: random.Random) -> Tally:
    """Breaks runs until `num_kills` of their starts were killed."""
    data = write_image_folder(folder / "images", train=NUM_RECORDS, test=12)
    break_records(data)
    more = (*STEPS, "--config.data.max_bad_share=0.1")
    lives = Lives(Runs(data, folder / "compiled", *more, num_devices=NUM_DEVICES), folder, rng)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        task = progress.add_task("kills", total=num_kills)
        while lives.tally.kills < num_kills:
            if break_once(lives) == 0:
                lives.end()
            progress.update(task, completed=lives.tally.kills)
    status, errors = lives.tiny.finish(lives.workdir, *lives.flags())
    assert status == 0, errors
    lives.end()
    return lives.tally


def break_records(data: Path) -> None:
    for index in range(BAD_RECORDS):
        path = data / "train" / f"{index * 97}.png"
        path.write_bytes(path.read_bytes()[:40])


def break_once(lives: Lives) -> int:
    """The status of a start that may have been killed or told to stop."""
    workdir, tally = lives.workdir, lives.tally
    before = sizes(workdir)
    if lives.rng.random() < 0.2 and len(before) > 1:
        damage(largest_file(workdir, max(before)), lives.rng.choice(("bit", "half", "missing")))
        before.pop(max(before))
        tally.damaged += 1
    status, errors = ended(started(lives))
    # While Python still imports, nobody listens for a notice.
    assert status in (0, 75, -signal.SIGKILL, -signal.SIGTERM), errors
    tally.notices += status == 75
    tally.kills += status < 0
    after = sizes(workdir)
    # Only what a later checkpoint has replaced may go.
    newest = sorted(after)[-2:]
    tally.lost_bytes += sum(
        size for step, size in before.items() if step not in after and step > min(newest, default=0)
    )
    if status < 0:
        tally.repeated_steps += max(0, max(steps(workdir), default=0) - max(after, default=0))
    return status


def started(lives: Lives) -> "subprocess.Popen[str]":
    """A start that kills itself at some place, or was killed or told to stop at some moment."""
    rng, flags = lives.rng, lives.flags()
    how = rng.choice(("place", "place", "moment", "notice"))
    if how == "place":
        return lives.tiny.start(lives.workdir, *flags, fault=f"kill {rng.choice(sorted(PLACES))} {rng.randrange(6)}")
    process = lives.tiny.start(lives.workdir, *flags)
    time.sleep(rng.uniform(0, lives.most_secs))
    process.send_signal(signal.SIGTERM if how == "notice" else signal.SIGKILL)
    return process


def sizes(workdir: Path) -> dict[int, int]:
    """Bytes of each checkpoint that was saved whole."""
    folders = {step: workdir / "checkpoints" / str(step) for step in saved_steps(workdir)}
    return {step: sum(path.stat().st_size for path in folder.rglob("*")) for step, folder in folders.items()}


if __name__ == "__main__":
    main()
