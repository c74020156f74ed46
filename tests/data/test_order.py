"""The order is a permutation an epoch, a pure function, and the processes' rows are the batch."""

import numpy as np
import pytest

from mmjax.data.order import FEW_RECORDS, process_rows, record_index

FEW = [4, 3, 6, 0, 1, 2, 5, 7, 4, 1, 5, 3, 2, 0, 7, 6]


@pytest.mark.parametrize("num_records", [1, 2, 7, FEW_RECORDS, FEW_RECORDS + 1])
def test_every_epoch_is_another_permutation(num_records: int) -> None:
    epochs = [
        [record_index(3, epoch * num_records + place, num_records) for place in range(num_records)]
        for epoch in range(2)
    ]
    assert all(sorted(epoch) == list(range(num_records)) for epoch in epochs)
    assert num_records < 7 or epochs[0] != epochs[1]


@pytest.mark.parametrize("num_records", [7, FEW_RECORDS + 1])
def test_streams_have_orders_of_their_own(num_records: int) -> None:
    orders = [[record_index(0, place, num_records, stream) for place in range(num_records)] for stream in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def test_first_places_are_even_over_epochs() -> None:
    """Of five records each comes first in a fifth of a thousand epochs, within five standard deviations."""
    first = np.bincount([record_index(1, 5 * epoch, 5) for epoch in range(1000)], minlength=5)
    assert abs(first - 200).max() < 64


def test_the_order_of_few_records_is_the_same_in_every_version() -> None:
    """What was computed once: a run goes on with it."""
    assert [record_index(3, place, 8) for place in range(16)] == FEW


def test_the_seed_chooses_the_order() -> None:
    orders = [[record_index(seed, place, 50) for place in range(50)] for seed in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def test_the_processes_rows_are_the_batch_in_order() -> None:
    rows = [row for index in range(4) for row in process_rows(12, index, 4)]
    assert rows == list(range(12))


def test_an_uneven_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="10 rows does not divide by 4"):
        process_rows(10, 0, 4)
