"""Host batches in order, read ahead by Grain's threads and processes."""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import grain
import numpy as np
from absl import flags

from mmjax.data.bad_records import BadRecords
from mmjax.data.config import DataConfig
from mmjax.data.costs import Costs
from mmjax.data.examples import Examples, Made
from mmjax.data.mixture import Mixture
from mmjax.data.notes import joined
from mmjax.data.order import process_rows
from mmjax.data.patience import PatientSource
from mmjax.data.records import Source
from mmjax.data.tokenizer import Tokenizer
from mmjax.data.words import rare_words
from mmjax.types import HostBatch

# A thread's task is this many rows or fewer, not a batch: a large batch is then made by all threads at once.
TASK_ROWS = 64


def train_batches(
    config: DataConfig,
    source: Source,
    tokenizer: Tokenizer,
    *,
    seed: int,
    start_step: int,
    num_steps: int,
    process_index: int = 0,
    process_count: int = 1,
    bad_records: BadRecords | None = None,
    mixture: Mixture | None = None,
    costs: Costs | None = None,
) -> Iterator[HostBatch]:
    """Yields this process's rows of the batches of steps start_step, ..., num_steps - 1.

    image uint8 (b, image_size, image_size, 3); text_ids int32 and text_mask bool (b, text_len); ids int32 (b,), equal
    for positives; weights float32 (b,), 0 for a record that could not be used; words int32 (b, num_words) where the
    config asks for some. Here b is batch_size / process_count.
    The batch of a step depends on (seed, step), the mixture and the settings alone: not on start_step, threads or
    processes.
    What the stages take is added to `costs`. Raises UserError, in the calling thread, when too many records are bad.
    """
    bad_records = bad_records or BadRecords(len(source), config.max_bad_share)
    patient = PatientSource(source, config.retry_secs)
    rare = rare_words(patient) if config.captions.rare_drop_rate else frozenset()
    examples = Examples(_share_of_worker(config), patient, tokenizer, rare, mixture, bad_records.skipped)
    rows = process_rows(config.batch_size, process_index, process_count)

    def make(step: int, place: slice, images: HostBatch) -> Made:
        return examples.train_batch(seed, [step * config.batch_size + row for row in rows[place]], images)

    for made in _in_order(make, examples.train_images, range(start_step, num_steps), len(rows), config):
        bad_records.take(made.notes)
        if costs is not None:
            costs.add(made.notes.costs)
        yield made.batch


def eval_batches(
    config: DataConfig,
    source: Source,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    bad_records: BadRecords | None = None,
) -> Iterator[HostBatch]:
    """Yields this process's rows of all records in order, as `train_batches` does but unchanged by augmentation.

    The last batch is filled up with rows of weight 0, so every batch has one shape.
    """
    unusable = bad_records or BadRecords(len(source), config.max_bad_share)
    examples = Examples(_share_of_worker(config), PatientSource(source, config.retry_secs), tokenizer)
    rows = process_rows(batch_size, process_index, process_count)

    def make(step: int, place: slice, images: HostBatch) -> Made:
        return examples.eval_batch([step * batch_size + row for row in rows[place]], images)

    steps = range(math.ceil(len(source) / batch_size))
    for made in _in_order(make, examples.eval_images, steps, len(rows), config):
        unusable.take(made.notes)
        yield made.batch


class StepArrays:
    """Arrays of whole steps, which tasks write a part of each; safe to use from many threads."""

    def __init__(self, new: Callable[[int], HostBatch], num_rows: int, task_rows: int):
        self._new, self._num_rows, self._task_rows = new, num_rows, task_rows
        self._open: dict[int, tuple[HostBatch, int]] = {}
        self._lock = threading.Lock()

    def part(self, step: int, place: slice) -> HostBatch:
        """The rows of a task, which asks once; those of a step share their arrays."""
        with self._lock:
            if step not in self._open:
                self._open[step] = self._new(self._num_rows), self._num_rows // self._task_rows
            arrays, tasks = self._open.pop(step)
            if tasks > 1:
                self._open[step] = arrays, tasks - 1
        return {name: array[place] for name, array in arrays.items()}


def _in_order(
    make: Callable[[int, slice, HostBatch], Made],
    new_images: Callable[[int], HostBatch],
    steps: range,
    num_rows: int,
    config: DataConfig,
) -> Iterator[Made]:
    """Yields the rows of each step, made in tasks of equal size by threads of this process, or of each worker, up to
    `prefetch` steps ahead."""
    task_rows = math.gcd(num_rows, TASK_ROWS)
    tasks_per_step = num_rows // task_rows
    shared = None if config.num_workers else StepArrays(new_images, num_rows, task_rows)

    def task(number: int) -> Made:
        step, part = divmod(number, tasks_per_step)
        place = slice(part * task_rows, (part + 1) * task_rows)
        # Tasks of one step are made by several workers, which share no memory.
        images = new_images(task_rows) if shared is None else shared.part(step, place)
        return make(steps[step], place, images)

    tasks = _read_ahead(grain.MapDataset.range(len(steps) * tasks_per_step).map(task), tasks_per_step, config)
    yield from tasks.batch(tasks_per_step, batch_fn=_join)


def _read_ahead(tasks: grain.MapDataset, tasks_per_step: int, config: DataConfig) -> grain.IterDataset:
    threads, workers = config.num_threads, config.num_workers
    if threads or workers:
        # Rows are made at the same time already; tokenizers would start as many threads again for each task.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    ahead = config.prefetch * tasks_per_step
    if not workers:
        return tasks.to_iter_dataset(grain.ReadOptions(threads, max(threads, ahead) if threads else 0))
    if not flags.FLAGS.is_parsed():
        # Grain asks for flags of its own, which our command lines do not read.
        flags.FLAGS.mark_as_parsed()
    # What a worker's threads hold, what it has ready, and what is taken of it add up to what is read ahead.
    each = grain.MultiprocessingOptions(workers, per_worker_buffer_size=max(1, ahead // (2 * workers)))
    read = tasks.to_iter_dataset(grain.ReadOptions(threads, threads))
    return read.mp_prefetch(each, worker_init_fn=_begin_worker)


def _begin_worker(index: int, count: int) -> None:
    """Leaves it to the process that trains to end this one: on a notice to all it saves first, and needs batches."""
    del index, count
    for notice in (signal.SIGTERM, signal.SIGINT):
        signal.signal(notice, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """Ends this process once the other one is gone, however it went."""
    parent.join()
    os._exit(1)


def _share_of_worker(config: DataConfig) -> DataConfig:
    """The settings of one worker: its part of the memory."""
    return replace(config, cache_bytes=config.cache_bytes // max(config.num_workers, 1))


def _join(parts: Sequence[Made]) -> Made:
    batches = [part.batch for part in parts]
    batch = {name: _joined_rows([rows[name] for rows in batches]) for name in batches[0]}
    return Made(batch, joined([part.notes for part in parts]))


def _joined_rows(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of all parts: the array that all of them are views of, where there is one."""
    whole = parts[0].base
    if not isinstance(whole, np.ndarray) or whole.shape != (sum(map(len, parts)), *parts[0].shape[1:]):
        return np.concatenate(parts)
    return whole if all(part.base is whole for part in parts) else np.concatenate(parts)
