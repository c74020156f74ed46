"""How far a run has come: a bar in a terminal, plain lines in a log file."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_SECS = 10.0
"""Seconds between lines where there is no terminal, so that a log of hours stays readable."""


class ProgressBar:
    """Shows step, loss, examples per second and time left; a context manager."""

    def __init__(
        self,
        num_steps: int,
        start_step: int = 0,
        console: Console | None = None,
        plain_every_secs: float = PLAIN_EVERY_SECS,
    ):
        self._num_steps = num_steps
        self._console = console or Console()
        self._plain = _Plain(self._console, num_steps, start_step, plain_every_secs)
        self._bar = Progress(*_columns(), console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("training", total=num_steps, completed=start_step, loss="", rate="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, step: int, loss: float, examples_per_sec: float) -> None:
        """Shows the numbers of `step`, of which the first is 1."""
        if self._console.is_terminal:
            rate = f"{examples_per_sec:,.0f}"
            self._bar.update(self._task, completed=step, loss=f"{loss:.4f}", rate=rate)
        else:
            self._plain.update(step, loss, examples_per_sec)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Plain:
    """One line every few seconds, and one at the end."""

    def __init__(self, console: Console, num_steps: int, start_step: int, every_secs: float):
        self._console = console
        self._num_steps = num_steps
        self._every_secs = every_secs
        self._first = (start_step, time.monotonic())
        self._last_secs = float("-inf")

    def update(self, step: int, loss: float, examples_per_sec: float) -> None:
        now = time.monotonic()
        if now - self._last_secs < self._every_secs and step < self._num_steps:
            return
        self._last_secs = now
        line = f"step {step}/{self._num_steps}  loss {loss:.4f}  {examples_per_sec:,.0f} examples/s"
        self._console.print(f"{line}  {self._left(step, now)}", highlight=False, soft_wrap=True)

    def _left(self, step: int, now: float) -> str:
        start_step, start_secs = self._first
        secs = (now - start_secs) / max(1, step - start_step) * (self._num_steps - step)
        minutes, seconds = divmod(round(secs), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02} left"


def _columns() -> tuple[TextColumn | BarColumn | MofNCompleteColumn | TimeRemainingColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[rate]} examples/s"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
