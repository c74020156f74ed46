"""Where the time of a run goes: step times, waiting for data, and the profiler's trace window."""

import math
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

STARVED_SHARE = 0.10
"""Waiting for data longer than this share of the time is worth a change; below it there is little to win."""

SLOW_STEP = 10
"""A step that takes so many times the median is said to be slow."""
MIN_STEPS = 20
"""Steps before there is a median to speak of."""


@dataclass(frozen=True)
class ProfileConfig:
    """A window of steps recorded by `jax.profiler`, for TensorBoard or Perfetto.

    start_step: the first step of the window; choose one past compilation.
    num_steps: how many; 0 records nothing.
    """

    start_step: int = 10
    num_steps: int = 0


class Slowness(NamedTuple):
    """A step that took far longer than others: so many `secs`, `times` the median."""

    secs: float
    times: float
    waited_for_data: bool

    def __str__(self) -> str:
        cause = "waiting for data" if self.waited_for_data else "the step itself, or another process that it waits for"
        return f"{self.secs:.1f} s, {self.times:.0f} times the median: {cause}"


class StepTimer:
    """Splits the wall time of the last `window` steps into waiting for data and the rest.

    A wait counts only if the devices had nothing left to do when it ended: while they still work on the step that was
    launched before, a host that waits costs nothing.
    """

    def __init__(self, window: int = 100):
        self._steps: deque[tuple[float, float]] = deque(maxlen=window)
        self._waited_secs = 0.0
        self.restart()

    def restart(self) -> None:
        """Leaves out the time since the last step, which an evaluation, a checkpoint or a compilation took."""
        self._start = time.perf_counter()
        self._waited_secs = 0.0

    @contextmanager
    def waiting_for_data(self, launched: Any = None) -> Iterator[None]:
        """Measures the wait inside the block; `launched` are outputs of the step that may still be running."""
        start = time.perf_counter()
        yield
        if all(leaf.is_ready() for leaf in jax.tree.leaves(launched)):
            self._waited_secs += time.perf_counter() - start

    def step(self) -> "Slowness | None":
        """Ends a step: to be called once for each, at the same place of the loop.

        How slow it was, if it took `SLOW_STEP` times the median of those before it.
        """
        now = time.perf_counter()
        total, waited = now - self._start, self._waited_secs
        median = statistics.median(secs for secs, _ in self._steps) if len(self._steps) >= MIN_STEPS else math.inf
        self._steps.append((total, waited))
        self._start, self._waited_secs = now, 0.0
        return Slowness(total, total / median, waited > total / 2) if total >= SLOW_STEP * median else None

    @property
    def step_secs(self) -> float:
        """Mean seconds a step over the window; 0 before the first step."""
        return sum(total for total, _ in self._steps) / len(self._steps) if self._steps else 0.0

    @property
    def data_wait_share(self) -> float:
        """Share of the window's time, 0 to 1, in which the devices waited for data."""
        total = sum(total for total, _ in self._steps)
        return sum(waited for _, waited in self._steps) / total if total else 0.0


def verdict(share: float) -> str:
    """What a data-wait share means, in one sentence."""
    if share < STARVED_SHARE:
        return f"input keeps up: the step waited {share:.0%} of the time for data"
    return (
        f"input starves the step: it waited {share:.0%} of the time for data; raise data.num_threads or "
        "data.num_workers (python -m mmjax.data.bench says which), or make data.augment cheaper"
    )


class TraceWindow:
    """Starts and stops the profiler around the steps of its config; the trace lies in WORKDIR/profile."""

    def __init__(self, config: ProfileConfig, workdir: Path):
        self._config = config
        self._folder = workdir / "profile"
        self._running = False

    def before_step(self, step: int, launched: Any = None) -> None:
        """To be called before step number `step` (0 is the first) is launched.

        Args:
            step: the number of updates made so far.
            launched: outputs of the step before, which are waited for so that the window holds whole steps.
        """
        first, last = self._config.start_step, self._config.start_step + self._config.num_steps
        if step == first and self._config.num_steps:
            jax.block_until_ready(launched)
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif step == last:
            self.close(launched)

    def close(self, launched: Any = None) -> None:
        """Ends a window that is still open, as where the run ends inside it."""
        if self._running:
            jax.block_until_ready(launched)
            jax.profiler.stop_trace()
            self._running = False


class Delayed:
    """Gives device values back one step late, so that the host never waits for the step it has just launched."""

    def __init__(self) -> None:
        self._waiting: tuple[int, Any] | None = None

    def put(self, step: int, values: Any) -> tuple[int, Any] | None:
        """Takes the values of `step` and returns those of the step before, on the host; None at the first."""
        ready = self.take()
        self._waiting = (step, values)
        return ready

    def take(self) -> tuple[int, Any] | None:
        """The values still held, on the host, waiting for them; None where there are none."""
        if self._waiting is None:
            return None
        step, values = self._waiting
        self._waiting = None
        return step, jax.device_get(values)
