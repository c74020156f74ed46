"""The order is a permutation an epoch, a pure function, and the processes' rows are the batch."""

import pytest

from mmjax.data.order import process_rows, record_index


@pytest.mark.parametrize("num_records", [1, 2, 7, 1000])
def test_every_epoch_is_another_permutation(num_records: int) -> None:
    epochs = [
        [record_index(3, epoch * num_records + place, num_records) for place in range(num_records)]
        for epoch in range(2)
    ]
    assert all(sorted(epoch) == list(range(num_records)) for epoch in epochs)
    assert num_records < 7 or epochs[0] != epochs[1]


def test_the_seed_chooses_the_order() -> None:
    orders = [[record_index(seed, place, 50) for place in range(50)] for seed in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def test_the_processes_rows_are_the_batch_in_order() -> None:
    rows = [row for index in range(4) for row in process_rows(12, index, 4)]
    assert rows == list(range(12))


def test_an_uneven_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="10 rows does not divide by 4"):
        process_rows(10, 0, 4)
