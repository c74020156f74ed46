"""Kills real runs at random moments, damages checkpoints, and counts the cost: `python -m tests.faults.soak`.

One record in a hundred is broken. Each run has to end as one that nothing happened to, bit for bit.
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

from rich.progress import MofNCompleteColumn, Progress

from tests.faults.runs import Runs, assert_same_run, ended, saved_steps, steps
from tests.faults.victim import PLACES
from tests.folders import write_image_folder

NUM_STEPS = 24
STEPS = (f"--config.train.num_steps={NUM_STEPS}", "--config.checkpoint.every_steps=3", "--config.evals.every_steps=4")
NUM_RECORDS, BAD_RECORDS = 200, 2
MOST_SECS = 20.0
"""A start that is not killed has ended by then, or is well into its steps."""


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

    def __str__(self) -> str:
        return (
            f"{self.kills} kills survived, {self.notices} notices of preemption heeded, {self.damaged} damaged "
            f"checkpoints set aside, {self.repeated_steps} steps repeated, {self.skipped_records} records skipped, "
            f"bytes lost: {self.lost_bytes}; {self.finished_runs} runs ended bit-identical"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    tally = soak(folder, options.kills, random.Random(options.seed))
    print(tally)
    shutil.rmtree(folder)


def soak(folder: Path, num_kills: int, rng: random.Random) -> Tally:
    """Breaks runs until `num_kills` of them were killed."""
    data = write_image_folder(folder / "images", train=NUM_RECORDS, test=12)
    break_records(data)
    tiny, tally = Runs(data, folder / "compiled", *STEPS, "--config.data.max_bad_share=0.1"), Tally()
    assert tiny.finish(folder / "whole") == (0, "")
    workdir = folder / "run"
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        task = progress.add_task("kills", total=num_kills)
        while tally.kills < num_kills:
            if break_once(tiny, workdir, rng, tally) == 0:
                end(workdir, folder / "whole", tally)
            progress.update(task, completed=tally.kills)
    status, errors = tiny.finish(workdir)
    assert status == 0, errors
    end(workdir, folder / "whole", tally)
    return tally


def break_records(data: Path) -> None:
    for index in range(BAD_RECORDS):
        path = data / "train" / f"{index * 97}.png"
        path.write_bytes(path.read_bytes()[:40])


def break_once(tiny: Runs, workdir: Path, rng: random.Random, tally: Tally) -> int:
    """The status of a start that may have been killed or told to stop."""
    before = sizes(workdir)
    if rng.random() < 0.2 and len(before) > 1:
        damage(workdir, rng)
        before.pop(max(before))
        tally.damaged += 1
    process = killed(tiny, workdir, rng)
    status, errors = ended(process)
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


def killed(tiny: Runs, workdir: Path, rng: random.Random) -> "subprocess.Popen[str]":
    """A start that kills itself at some place, or is killed or told to stop at some moment."""
    how = rng.choice(("place", "place", "moment", "notice"))
    if how == "place":
        return tiny.start(workdir, fault=f"kill {rng.choice(sorted(PLACES))} {rng.randrange(6)}")
    process = tiny.start(workdir)
    time.sleep(rng.uniform(0, MOST_SECS))
    process.send_signal(signal.SIGTERM if how == "notice" else signal.SIGKILL)
    return process


def damage(workdir: Path, rng: random.Random) -> None:
    """Flips a bit of the data of the newest checkpoint."""
    newest = workdir / "checkpoints" / str(saved_steps(workdir)[-1]) / "state"
    path = max((path for path in newest.rglob("d/*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def sizes(workdir: Path) -> dict[int, int]:
    """Bytes of each checkpoint that was saved whole."""
    folders = {step: workdir / "checkpoints" / str(step) for step in saved_steps(workdir)}
    return {step: sum(path.stat().st_size for path in folder.rglob("*")) for step, folder in folders.items()}


def end(workdir: Path, whole: Path, tally: Tally) -> None:
    """Compares a run that has ended with the one that nothing happened to, and clears it away."""
    assert_same_run(workdir, whole)
    tally.finished_runs += 1
    listed = workdir / "bad_records.jsonl"
    tally.skipped_records += len(set(listed.read_text().splitlines())) if listed.exists() else 0
    shutil.rmtree(workdir)


if __name__ == "__main__":
    main()
