"""The rows that wait for the model: tickets are requests, spans their shares of a batch, lanes the queue of a tower."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch

from mmjax.serving.model import Rows

Encode = Callable[[Rows], np.ndarray]
"""Rows of n examples to an array (n, e)."""


@dataclass(frozen=True)
class BatchConfig:
    """max_batch: rows of a batch.
    max_wait_ms: how long an idle model waits for more rows after the first came.
    side_by_side: batches that may run at once.
    """

    max_batch: int = 8
    max_wait_ms: float = 5.0
    side_by_side: int = 1


@dataclass
class Ticket:
    """The rows of one request: how many the model has taken, and what came out of them so far, by their first row."""

    rows: Rows
    num_rows: int
    since: float
    future: "Future[np.ndarray]" = field(default_factory=Future)
    taken: int = 0
    parts: dict[int, np.ndarray] = field(default_factory=dict)

    def wanted(self) -> bool:
        """Whether anybody waits for the rest of it; from the first call on it can no longer be cancelled."""
        if self.taken == 0:
            return self.future.set_running_or_notify_cancel()
        return not self.future.done()

    def take(self, room: int) -> "Span":
        """The next rows, at most `room` of them."""
        start, self.taken = self.taken, min(self.taken + room, self.num_rows)
        return Span(self, start, self.taken)

    def give(self, start: int, part: np.ndarray) -> None:
        """Adds what came out of the rows from `start` on, and answers when it is the last."""
        self.parts[start] = part
        if sum(map(len, self.parts.values())) == self.num_rows and not self.future.done():
            self.future.set_result(np.concatenate([self.parts[start] for start in sorted(self.parts)]))

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True)
class Span:
    """The rows start to stop of a ticket: its share of a batch."""

    ticket: Ticket
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def rows(self, name: str) -> torch.Tensor:
        return self.ticket.rows[name][self.start : self.stop]


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

    def take(self, max_batch: int) -> list[Span]:
        """Rows for one batch, oldest first; requests that are no longer waited for are dropped."""
        spans: list[Span] = []
        room = max_batch
        while self.tickets and room:
            ticket = self.tickets[0]
            if not ticket.wanted():
                self.tickets.popleft()
                continue
            spans.append(ticket.take(room))
            room -= len(spans[-1])
            if ticket.taken == ticket.num_rows:
                self.tickets.popleft()
        return spans
