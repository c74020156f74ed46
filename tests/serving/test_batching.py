import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from mmjax.serving.batching import Batcher, batch_config
from mmjax.serving.lanes import BatchConfig
from mmjax.serving.model import Rows

PATIENT = BatchConfig(max_batch=4, max_wait_ms=60_000)
EAGER = BatchConfig(max_batch=4, max_wait_ms=0)


class Double:
    """A model that doubles; it remembers its batches, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.started, self.free = threading.Event(), threading.Event()
        self.free.set()

    def __call__(self, rows: Rows) -> np.ndarray:
        self.started.set()
        self.free.wait(30)
        values = rows["x"].numpy()
        self.batches.append(values[:, 0].tolist())
        if (values < 0).any():
            raise ArithmeticError("negative")
        return 2 * values


def rows(*values: float) -> Rows:
    return {"x": torch.tensor(values)[:, None]}


Make = Callable[[BatchConfig], Batcher]


@pytest.fixture
def model() -> Double:
    return Double()


@pytest.fixture
def make(model: Double) -> Iterator[Make]:
    made = []

    def make(config: BatchConfig) -> Batcher:
        made.append(Batcher({"a": model, "b": lambda rows: -rows["x"].numpy()}, config))
        return made[-1]

    yield make
    model.free.set()
    for batcher in made:
        batcher.close()


def result(future: "Future[np.ndarray]") -> list[float]:
    return future.result(30)[:, 0].tolist()


def test_a_full_batch_does_not_wait(make: Make, model: Double) -> None:
    batcher = make(PATIENT)
    futures = [batcher.submit("a", rows(value)) for value in (1.0, 2.0, 3.0, 4.0)]
    assert [result(future) for future in futures] == [[2.0], [4.0], [6.0], [8.0]]
    assert model.batches == [[1.0, 2.0, 3.0, 4.0]]


def test_a_lone_row_waits_no_longer_than_told(make: Make) -> None:
    assert result(make(BatchConfig(4, 20)).submit("a", rows(1.0))) == [2.0]


def test_rows_wait_for_company_for_that_long(make: Make, model: Double) -> None:
    batcher = make(BatchConfig(4, 500))
    start = time.monotonic()
    first = batcher.submit("a", rows(1.0))
    second = batcher.submit("a", rows(2.0))
    assert (result(first), result(second)) == ([2.0], [4.0])
    assert model.batches == [[1.0, 2.0]]
    assert time.monotonic() - start >= 0.5


def test_requests_are_split_and_joined_across_batches(make: Make, model: Double) -> None:
    model.free.clear()
    batcher = make(EAGER)
    sizes = (3, 6, 1, 9, 2)
    values = np.split(np.arange(sum(sizes), dtype=np.float32), np.cumsum(sizes)[:-1])
    futures = [batcher.submit("a", rows(*part.tolist())) for part in values]
    model.free.set()
    assert [result(future) for future in futures] == [(2 * part).tolist() for part in values]
    assert max(map(len, model.batches)) == 4
    assert list(itertools.chain(*model.batches)) == list(range(sum(sizes)))


def test_lanes_are_separate(make: Make) -> None:
    batcher = make(EAGER)
    a, b = batcher.submit("a", rows(1.0)), batcher.submit("b", rows(1.0))
    assert (result(a), result(b)) == ([2.0], [-1.0])


def test_an_error_is_the_answer_and_the_thread_lives_on(make: Make) -> None:
    batcher = make(BatchConfig(4, 50))
    bad, beside = batcher.submit("a", rows(-1.0)), batcher.submit("a", rows(1.0, 2.0, 3.0, 4.0, 5.0))
    for future in (bad, beside):
        with pytest.raises(ArithmeticError):
            future.result(30)
    assert result(batcher.submit("a", rows(3.0))) == [6.0]
    assert batcher.alive
    assert batcher.waiting("a") == 0


def test_cancelled_requests_are_not_run(make: Make, model: Double) -> None:
    model.free.clear()
    batcher = make(EAGER)
    first = batcher.submit("a", rows(1.0))
    assert model.started.wait(10)
    left, last = batcher.submit("a", rows(2.0)), batcher.submit("a", rows(3.0))
    assert left.cancel()
    model.free.set()
    assert (result(first), result(last)) == ([2.0], [6.0])
    assert [2.0] not in model.batches


def test_when_all_that_waited_is_cancelled_the_thread_waits_on(make: Make, model: Double) -> None:
    batcher = make(BatchConfig(4, 100))
    assert batcher.submit("a", rows(1.0)).cancel()
    while batcher.waiting("a"):  # Until it is taken: with company it would not be alone in its batch.
        time.sleep(0.01)
    assert result(batcher.submit("a", rows(2.0))) == [4.0]
    assert batcher.alive
    assert model.batches == [[2.0]]


def test_closing_answers_what_waits(make: Make) -> None:
    batcher = make(PATIENT)
    future = batcher.submit("a", rows(1.0))
    batcher.close()
    assert result(future) == [2.0]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("a", rows(1.0))


@pytest.fixture
def four_cores(one_thread: None) -> Iterator[None]:
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("four_cores")
def test_batches_run_side_by_side_and_share_the_cores() -> None:
    both, cores = threading.Barrier(2), []

    def encode(rows: Rows) -> np.ndarray:
        cores.append(torch.get_num_threads())
        both.wait(30)
        return rows["x"].numpy()

    batcher = Batcher({"a": encode}, BatchConfig(4, 60_000, side_by_side=2))
    assert result(batcher.submit("a", rows(*map(float, range(8))))) == list(range(8))
    batcher.close()
    assert cores == [2, 2]


@pytest.mark.usefixtures("four_cores")
def test_a_batch_that_is_alone_has_all_cores() -> None:
    cores = []

    def encode(rows: Rows) -> np.ndarray:
        cores.append(torch.get_num_threads())
        return rows["x"].numpy()

    batcher = Batcher({"a": encode}, BatchConfig(4, 0, side_by_side=2))
    for value in (1.0, 2.0, 3.0):
        assert result(batcher.submit("a", rows(value))) == [value]
    batcher.close()
    assert cores == [4, 4, 4]


def test_parts_of_a_request_that_end_out_of_order_are_joined_in_order() -> None:
    second = threading.Event()

    def encode(rows: Rows) -> np.ndarray:
        if rows["x"][0] == 0:
            second.wait(30)
        else:
            second.set()
        return rows["x"].numpy()

    batcher = Batcher({"a": encode}, BatchConfig(2, 0, side_by_side=2))
    assert result(batcher.submit("a", rows(0.0, 1.0, 2.0, 3.0))) == [0.0, 1.0, 2.0, 3.0]
    batcher.close()


def test_errors_in_two_parts_of_a_request_answer_it_once_and_both_threads_live_on() -> None:
    both = threading.Barrier(2)

    def encode(rows: Rows) -> np.ndarray:
        both.wait(30)
        if rows["x"][0] < 0:
            raise ArithmeticError("negative")
        return rows["x"].numpy()

    batcher = Batcher({"a": encode}, BatchConfig(1, 0, side_by_side=2))
    with pytest.raises(ArithmeticError):
        batcher.submit("a", rows(-1.0, -2.0)).result(30)
    # One thread alone would wait for the other here.
    assert result(batcher.submit("a", rows(1.0, 2.0))) == [1.0, 2.0]
    batcher.close()


@pytest.mark.usefixtures("four_cores")
def test_small_batches_side_by_side_on_a_cpu_large_ones_in_turn_elsewhere() -> None:
    assert batch_config("cpu") == BatchConfig(8, 5.0, 4)
    assert batch_config("cuda") == BatchConfig(32, 5.0, 1)
    assert batch_config("cuda", 64, 1.0) == BatchConfig(64, 1.0, 1)
