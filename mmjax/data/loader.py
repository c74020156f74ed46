"""Host batches in order, read ahead by Grain's threads."""

import math
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np

from mmjax.data.bad_records import BadRecords
from mmjax.data.config import DataConfig
from mmjax.data.examples import Examples
from mmjax.data.mixture import Mixture
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
) -> Iterator[HostBatch]:
    """Yields this process's rows of the batches of steps start_step, ..., num_steps - 1.

    image uint8 (b, image_size, image_size, 3); text_ids int32 and text_mask bool (b, text_len); ids int32 (b,), equal
    for positives; weights float32 (b,), 0 for a record that could not be used; words int32 (b, num_words) where the
    config asks for some. Here b is batch_size / process_count.
    The batch of a step depends on (seed, step), the mixture and the settings alone: not on start_step, threads or
    processes.
    Raises UserError, in the calling thread, when too many records are bad.
    """
    source = PatientSource(source, config.retry_secs)
    rare = rare_words(source) if config.captions.rare_drop_rate else frozenset()
    bad_records = bad_records or BadRecords(len(source), config.max_bad_share)
    examples = Examples(config, source, tokenizer, bad_records, rare, mixture)
    rows = process_rows(config.batch_size, process_index, process_count)

    def make(step: int, place: slice) -> HostBatch:
        return examples.train_batch(seed, [step * config.batch_size + row for row in rows[place]])

    yield from _in_order(make, range(start_step, num_steps), len(rows), config)


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
    examples = Examples(config, PatientSource(source, config.retry_secs), tokenizer, unusable)
    rows = process_rows(batch_size, process_index, process_count)

    def make(step: int, place: slice) -> HostBatch:
        return examples.eval_batch([step * batch_size + row for row in rows[place]])

    yield from _in_order(make, range(math.ceil(len(source) / batch_size)), len(rows), config)


def _in_order(
    make: Callable[[int, slice], HostBatch], steps: range, num_rows: int, config: DataConfig
) -> Iterator[HostBatch]:
    """Yields the batch of each step, made in tasks of equal size by num_threads threads, prefetch batches ahead."""
    task_rows = math.gcd(num_rows, TASK_ROWS)
    tasks_per_step = num_rows // task_rows

    def task(number: int) -> HostBatch:
        step, part = divmod(number, tasks_per_step)
        return make(steps[step], slice(part * task_rows, (part + 1) * task_rows))

    ahead = max(config.num_threads, config.prefetch * tasks_per_step) if config.num_threads else 0
    options = grain.ReadOptions(num_threads=config.num_threads, prefetch_buffer_size=ahead)
    tasks = grain.MapDataset.range(len(steps) * tasks_per_step).map(task).to_iter_dataset(options)
    yield from tasks.batch(tasks_per_step, batch_fn=_join)


def _join(parts: Sequence[HostBatch]) -> HostBatch:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
