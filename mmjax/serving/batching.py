"""Rows of many requests become batches: a few threads run the model, and rows wait for others a bounded time.

On a CPU, two batches on a core each finish sooner than one after the other on both: nothing waits for the slower half
of every operation, which matters most while decoding and HTTP want a part of the cores. So batches run side by side
where there is work for them, and share the cores; a batch that is alone has all of them.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
import torch

from mmjax.serving.lanes import BatchConfig, Encode, Lane, Span, Ticket
from mmjax.serving.model import Rows

ACCELERATOR_BATCH = 32
Observe = Callable[[str, int, float], None]
"""Told lane, rows and seconds of every batch."""


def batch_config(
    device: str, max_batch: int | None = None, max_wait_ms: float = BatchConfig.max_wait_ms
) -> BatchConfig:
    """What suits the device: on CPUs small batches, one a core (`benchmarks/serving.py`), elsewhere large in turn."""
    on_cpu = device == "cpu"
    if max_batch is None:
        max_batch = BatchConfig.max_batch if on_cpu else ACCELERATOR_BATCH
    return BatchConfig(max_batch, max_wait_ms, side_by_side=torch.get_num_threads() if on_cpu else 1)


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows (n, t, ...) of several requests under each other, those of a shorter t with zeros behind them.

    A model whose rows may differ in length is told which of them are real by a mask among its inputs.
    """
    if len({part.shape[1:] for part in parts}) > 1:
        longest = max(part.shape[1] for part in parts)
        parts = [_lengthened(part, longest) for part in parts]
    return torch.cat(list(parts))


def _lengthened(part: torch.Tensor, length: int) -> torch.Tensor:
    missing = part.new_zeros(len(part), length - part.shape[1], *part.shape[2:])
    return torch.cat([part, missing], dim=1)


class Batcher:
    """Lanes by name, and the threads that empty them, the longest waiting first.

    It does not bound its queues: those who submit hold a place of a `Gate`.
    """

    def __init__(self, encoders: Mapping[str, Encode], config: BatchConfig, observe: Observe = lambda *_: None):
        self._lanes = {name: Lane(encode) for name, encode in encoders.items()}
        self._config, self._observe = config, observe
        self._changed = threading.Condition()
        self._open, self._running = True, 0
        self._cores = torch.get_num_threads()
        self._threads = [
            threading.Thread(target=self._run, name="model", daemon=True) for _ in range(config.side_by_side)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, lane: str, rows: Rows) -> "Future[np.ndarray]":
        """The embeddings (n, e) of these rows, in time."""
        ticket = Ticket(rows, len(next(iter(rows.values()))), time.monotonic())
        with self._changed:
            if not self._open:
                raise RuntimeError("the batcher is closed")
            self._lanes[lane].tickets.append(ticket)
            self._changed.notify_all()
        return ticket.future

    def waiting(self, lane: str) -> int:
        """Rows that the model has not taken yet."""
        with self._changed:
            return self._lanes[lane].num_rows

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Answers what is waiting and ends the threads."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            name, spans, cores = batch
            torch.set_num_threads(cores)
            start = time.monotonic()
            self._answer(self._lanes[name].encode, spans)
            self._observe(name, sum(map(len, spans)), time.monotonic() - start)

    def _next(self) -> tuple[str, list[Span], int] | None:
        """The lane that is due first, its rows, and the cores for them, once it is due; None at the end."""
        with self._changed:
            while True:
                name, due = min(
                    ((name, lane.due(self._config)) for name, lane in self._lanes.items()), key=lambda item: item[1]
                )
                wait = due - time.monotonic()
                if due < float("inf") and (wait <= 0 or not self._open):
                    if spans := self._lanes[name].take(self._config.max_batch):
                        self._running += 1
                        return name, spans, self._share()
                elif not self._open:
                    return None
                else:
                    self._changed.wait(None if due == float("inf") else wait)

    def _share(self) -> int:
        """Cores for a batch that starts and is counted: all of them, divided among the batches that run or could."""
        ready = sum(-(-lane.num_rows // self._config.max_batch) for lane in self._lanes.values())
        return max(1, self._cores // min(self._running + ready, self._config.side_by_side))

    def _answer(self, encode: Encode, spans: Sequence[Span]) -> None:
        """Runs one batch; what goes wrong in it is the answer to all of its requests, and the thread lives on."""
        try:
            names = spans[0].ticket.rows.keys()
            outputs = encode({name: joined([span.rows(name) for span in spans]) for name in names})
        except Exception as error:
            with self._changed:
                self._running -= 1
                for span in spans:
                    span.ticket.fail(error)
            return
        start = 0
        with self._changed:
            self._running -= 1
            for span in spans:
                span.ticket.give(span.start, outputs[start : start + len(span)])
                start += len(span)
