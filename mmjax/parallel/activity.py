"""What this process is doing, and how long each kind of thing has taken."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple


class Doing(NamedTuple):
    """What a process does: the `kind` ("data", "step", ...), at which step, for how many seconds, and how many things
    it has ended before. Processes of a run do the same things in the same order: the lowest number is that of the last.
    """

    kind: str
    step: int
    secs: float
    num_before: int

    def __str__(self) -> str:
        return f"{self.kind} at step {self.step}"


class Activity:
    """Keeps account of what a process does; read from other threads too. Time is the monotonic clock's."""

    def __init__(self, kind: str = "start-up"):
        self._lock = threading.Lock()
        self._kind, self._step, self._count = kind, 0, 0
        self._since = time.monotonic()
        self._secs: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, kind: str, step: int) -> Iterator[None]:
        """Does `kind` inside the block; afterwards, again what was done before, at the same step."""
        before = self._kind
        self.turn_to(kind, step)
        try:
            yield
        finally:
            self.turn_to(before, step)

    def turn_to(self, kind: str, step: int) -> None:
        """Ends what was done, and does `kind` from now on."""
        now = time.monotonic()
        with self._lock:
            self._secs[self._kind] += now - self._since
            self._kind, self._step, self._since = kind, step, now
            self._count += 1

    def now(self) -> Doing:
        with self._lock:
            return Doing(self._kind, self._step, time.monotonic() - self._since, self._count)

    def secs(self) -> dict[str, float]:
        """Seconds of each kind so far, that of now included; they add up to the time since the start."""
        with self._lock:
            so_far = {self._kind: self._secs[self._kind] + time.monotonic() - self._since}
            return {**self._secs, **so_far}
