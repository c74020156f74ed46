"""Rows of many requests become batches: one thread runs the model, and rows wait for others a bounded time."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch

from mmjax.serving.model import Rows

Encode = Callable[[Rows], np.ndarray]
"""Rows of n examples to an array (n, e)."""
Observe = Callable[[str, int, float], None]
"""Told lane, rows and seconds of every batch."""


@dataclass(frozen=True)
class BatchConfig:
    """max_batch: rows of a batch. max_wait_ms: how long an idle model waits for more rows after the first came."""

    max_batch: int = 32
    max_wait_ms: float = 5.0


@dataclass
class Ticket:
    """The rows of one request: how many the model has taken, and what came out of them so far."""

    rows: Rows
    num_rows: int
    since: float
    future: "Future[np.ndarray]" = field(default_factory=Future)
    taken: int = 0
    parts: list[np.ndarray] = field(default_factory=list)

    def wanted(self) -> bool:
        """Whether anybody waits for the rest of it; from the first call on it can no longer be cancelled."""
        if self.taken == 0:
            return self.future.set_running_or_notify_cancel()
        return not self.future.done()

    def take(self, room: int) -> tuple[Rows, int]:
        """The next rows, at most `room` of them, and their number."""
        start, self.taken = self.taken, min(self.taken + room, self.num_rows)
        return {name: x[start : self.taken] for name, x in self.rows.items()}, self.taken - start

    def give(self, part: np.ndarray) -> None:
        """Adds what came out of the rows taken longest ago, and answers when it is the last."""
        self.parts.append(part)
        if sum(map(len, self.parts)) == self.num_rows:
            self.future.set_result(np.concatenate(self.parts))


class Lane:
    """The queue of one tower."""

    def __init__(self, encode: Encode):
        self.encode = encode
        self.tickets: deque[Ticket] = deque()

    @property
    def num_rows(self) -> int:
        return sum(ticket.num_rows - ticket.taken for ticket in self.tickets)

    def due(self, config: BatchConfig) -> float:
        """The time at which a batch must start: now where it is full, never where there is nothing."""
        if not self.tickets:
            return float("inf")
        full = self.num_rows >= config.max_batch
        return self.tickets[0].since + (0.0 if full else config.max_wait_ms / 1000)

    def take(self, max_batch: int) -> list[tuple[Ticket, Rows, int]]:
        """Rows for one batch, oldest first; requests that are no longer waited for are dropped."""
        spans: list[tuple[Ticket, Rows, int]] = []
        room = max_batch
        while self.tickets and room:
            ticket = self.tickets[0]
            if not ticket.wanted():
                self.tickets.popleft()
                continue
            rows, count = ticket.take(room)
            spans.append((ticket, rows, count))
            room -= count
            if ticket.taken == ticket.num_rows:
                self.tickets.popleft()
        return spans


class Batcher:
    """Lanes by name, and the one thread that empties them, the longest waiting first.

    It does not bound its queues: those who submit hold a place of a `Gate`.
    """

    def __init__(self, encoders: Mapping[str, Encode], config: BatchConfig, observe: Observe = lambda *_: None):
        self._lanes = {name: Lane(encode) for name, encode in encoders.items()}
        self._config, self._observe = config, observe
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, lane: str, rows: Rows) -> "Future[np.ndarray]":
        """The embeddings (n, e) of these rows, in time."""
        ticket = Ticket(rows, len(next(iter(rows.values()))), time.monotonic())
        with self._changed:
            if not self._open:
                raise RuntimeError("the batcher is closed")
            self._lanes[lane].tickets.append(ticket)
            self._changed.notify()
        return ticket.future

    def waiting(self, lane: str) -> int:
        """Rows that the model has not taken yet."""
        with self._changed:
            return self._lanes[lane].num_rows

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Answers what is waiting and ends the thread."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (chosen := self._next()) is not None:
            name, spans = chosen
            if spans:
                start = time.monotonic()
                self._answer(self._lanes[name].encode, spans)
                self._observe(name, sum(count for _, _, count in spans), time.monotonic() - start)

    def _next(self) -> tuple[str, list[tuple[Ticket, Rows, int]]] | None:
        """The lane that is due first and its rows, once it is due; None at the end."""
        with self._changed:
            while True:
                name, due = min(
                    ((name, lane.due(self._config)) for name, lane in self._lanes.items()), key=lambda item: item[1]
                )
                wait = due - time.monotonic()
                if due < float("inf") and (wait <= 0 or not self._open):
                    return name, self._lanes[name].take(self._config.max_batch)
                if not self._open:
                    return None
                self._changed.wait(None if due == float("inf") else wait)

    def _answer(self, encode: Encode, spans: Sequence[tuple[Ticket, Rows, int]]) -> None:
        """Runs one batch; what goes wrong in it is the answer to all of its requests, and the thread lives on."""
        try:
            names = spans[0][1].keys()
            outputs = encode({name: torch.cat([rows[name] for _, rows, _ in spans]) for name in names})
        except Exception as error:
            for ticket, _, _ in spans:
                ticket.future.set_exception(error)
            return
        start = 0
        for ticket, _, count in spans:
            ticket.give(outputs[start : start + count])
            start += count
