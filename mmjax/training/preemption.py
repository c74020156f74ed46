"""The notice that this machine is about to be taken away: SIGTERM, as SLURM, Kubernetes and clouds send it."""

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import jax
from jax.experimental import multihost_utils

T = TypeVar("T")


class Noticed(Exception):
    """A notice came while something ran that can be given up."""


class Preemption:
    """Listens for the notice; a context manager, to be entered on the main thread.

    All processes of a run ask `requested` equally often and in the same order, and get the same answers: a notice that
    one of them is given is heard by all, at the first call that none has made yet.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._noticed = False
        self._previous: Any = None
        # With several processes JAX listens for the signal itself, and spreads the notice.
        self._listens = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._listens:
            self._previous = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._previous)

    def requested(self) -> bool:
        """Whether the run has to save and to stop."""
        self._calls += 1
        if jax.process_count() > 1 and not self._noticed:
            self._noticed = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._noticed

    def until_noticed(self, items: Iterable[T]) -> Iterator[T]:
        """The items of work that can be given up.

        Raises:
            Noticed: the run has to save and to stop.
        """
        for item in items:
            if self.requested():
                raise Noticed
            yield item

    def _notice(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._noticed = True
