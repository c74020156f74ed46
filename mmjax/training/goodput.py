"""Where the wall time of a run went, over all its starts, and how much of it was training."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mmjax.errors import UserError
from mmjax.parallel.activity import Activity
from mmjax.whole_files import whole

FOLDER = "goodput"
WRITE_EVERY_SECS = 5.0
"""What a killed run did after its last writing counts as time between starts."""

USEFUL = "step"
REPEATED, DOWN = "repeated step", "down"
"""Steps that a killed start had made and not saved; and between starts, when no process was there."""


def process_activity() -> Activity:
    """The activity of this process, from the moment when it was created."""
    return Activity(secs_before=time.time() - psutil.Process().create_time())


@dataclass(frozen=True)
class Start:
    """One start of a run, as its file says.

    Attributes:
      began, ended: seconds since 1970, by the clock of the host; the second is that of the last writing.
      first_step: the number of updates that the state it went on from had seen.
      last_step: the same at the last writing.
      first_step_secs: from the beginning to the end of the first step; 0 where there was none.
      secs: seconds of each kind of activity.
    """

    began: float
    ended: float
    first_step: int
    last_step: int
    first_step_secs: float
    secs: Mapping[str, float]


class Ledger:
    """Keeps the account of this start in `workdir`; one process of the run does."""

    def __init__(self, workdir: Path, activity: Activity, first_step: int):
        self._activity = activity
        self._began = time.time() - sum(activity.secs().values())
        self._first_step = self._last_step = first_step
        self._first_step_secs = 0.0
        self._path = _next_path(workdir / FOLDER)
        self._written = float("-inf")

    def step(self, step: int) -> None:
        """Notes that so many updates were made; writes now and then."""
        self._last_step = step
        if not self._first_step_secs:
            self._first_step_secs = sum(self._activity.secs().values())
        if time.monotonic() - self._written > WRITE_EVERY_SECS:
            self.write()

    def write(self) -> None:
        """Writes the file whole or not at all."""
        secs = self._activity.secs()
        # By the monotonic clock: the wall clock may jump while a run goes on.
        ended = self._began + sum(secs.values())
        start = Start(self._began, ended, self._first_step, self._last_step, self._first_step_secs, secs)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with whole(self._path) as unfinished:
            unfinished.write_text(json.dumps(vars(start), indent=2) + "\n")
        self._written = time.monotonic()


def read_starts(workdir: Path) -> list[Start]:
    """All starts of the run in `workdir`, in their order.

    Raises:
        UserError: there is no account, or a file of it is not what was written.
    """
    paths = sorted((workdir / FOLDER).glob("*.json"))
    if not paths:
        raise UserError(f"{workdir} has no account of time ({FOLDER}/*.json): give the --workdir of a training run")
    return [_read(path) for path in paths]


def account(starts: list[Start]) -> dict[str, float]:
    """Seconds by what they went for, from the first beginning to the last writing; they add up to the wall time."""
    totals: dict[str, float] = {}
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        repeated = repeated_secs(start, following)
        down = max(0.0, following.began - start.ended) if following else 0.0
        spent = {**start.secs, REPEATED: repeated, DOWN: down, USEFUL: start.secs.get(USEFUL, 0.0) - repeated}
        totals = {kind: totals.get(kind, 0.0) + spent.get(kind, 0.0) for kind in totals | spent}
    return {kind: secs for kind, secs in totals.items() if secs}


def repeated_secs(start: Start, following: Start | None) -> float:
    """Seconds of the steps of `start` that the next one had to make again."""
    made = start.last_step - start.first_step
    lost = start.last_step - following.first_step if following else 0
    return start.secs.get(USEFUL, 0.0) * max(0, min(lost, made)) / made if made else 0.0


def goodput(totals: Mapping[str, float]) -> float:
    """The share of the wall time, 0 to 1, in which steps were made that were kept."""
    return totals.get(USEFUL, 0.0) / sum(totals.values()) if totals else 0.0


def _next_path(folder: Path) -> Path:
    return folder / f"{len(list(folder.glob('*.json'))):06}.json"


def _read(path: Path) -> Start:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        return Start(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not an account of time ({error}): delete it") from error
