"""The order of the data: which record is read at which position of a run."""

from functools import lru_cache

import numpy as np
from grain.experimental import index_shuffle

# Rounds of the block cipher that permutes the indices; grain takes an even number from 4.
SHUFFLE_ROUNDS = 4
FEW_RECORDS = 1024
"""Up to which an epoch is kept as a table. The cipher permutes a power of four, and tries again until it finds a number
that is in range: for 20 records it takes 2 ms, for 5,000 and more 10 us."""


def record_index(seed: int, position: int, num_records: int, stream: int = 0) -> int:
    """Returns the record at `position` (step * batch_size + row) of the run: a pure function, so resuming is counting.

    Positions [k * num_records, (k + 1) * num_records) are epoch k, a permutation of the records of its own. An epoch
    need not end with a batch: the next one follows on in the same batch, and no record is skipped. Each `stream` of
    positions has permutations of its own.
    """
    epoch, place = divmod(position, num_records)
    if num_records <= FEW_RECORDS:
        return int(_table(seed, epoch, stream, num_records)[place])
    return int(index_shuffle(place, num_records - 1, _epoch_seed(seed, epoch, stream), SHUFFLE_ROUNDS))


@lru_cache(maxsize=1024)
def _table(seed: int, epoch: int, stream: int, num_records: int) -> np.ndarray:
    """The order of random words, which numpy promises to be the same in all its versions."""
    words = np.random.SeedSequence([seed, epoch, stream]).generate_state(num_records, np.uint64)
    return np.argsort(words, kind="stable")


@lru_cache(maxsize=1024)
def _epoch_seed(seed: int, epoch: int, stream: int) -> int:
    # Numpy fills up with zeros: stream 0 has the seeds of [seed, epoch].
    return int(np.random.SeedSequence([seed, epoch, stream]).generate_state(1)[0])


def process_rows(batch_size: int, process_index: int, process_count: int) -> range:
    """Returns the rows [p b / P, (p + 1) b / P) of every batch that one process reads.

    Raises ValueError when the batch does not divide by the number of processes.
    """
    if batch_size % process_count:
        raise ValueError(f"batch of {batch_size} rows does not divide by {process_count} processes")
    rows = batch_size // process_count
    return range(process_index * rows, (process_index + 1) * rows)
