"""What rows take is counted by stage, and says what a rate of them needs."""

import itertools
import time

import pytest

from mmjax.data.cores import num_cores
from mmjax.data.costs import Costs, needs
from mmjax.data.notes import Notes, Unusable, joined


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a second later, and every look at that of the thread a quarter of one."""
    for name, step in (("perf_counter", 1.0), ("thread_time", 0.25)):
        monkeypatch.setattr(time, name, itertools.count(0.0, step).__next__)


def test_a_block_counts_for_its_stage(clocks: None) -> None:
    costs = Costs()
    for stage in ("read", "decode", "read"):
        with costs.timed(stage):
            pass
    assert costs == Costs(0, {"read": 2.0, "decode": 1.0}, {"read": 0.5, "decode": 0.25})


def test_a_block_that_fails_counts_too() -> None:
    costs = Costs()
    with pytest.raises(KeyError), costs.timed("read"):
        raise KeyError
    assert "read" in costs.secs


def test_notes_of_tasks_are_added_in_their_order() -> None:
    first, second = Unusable(3, "a", "broken"), Unusable(1, "b", "gone", position=7)
    parts = [
        Notes(Costs(2, {"read": 1.0}, {"read": 0.5}), 1, [first]),
        Notes(Costs(3, {"read": 2.0, "stack": 1.0}, {"read": 0.25, "stack": 1.0}), 2, [second]),
    ]
    total = joined(parts)
    assert total == Notes(Costs(5, {"read": 3.0, "stack": 1.0}, {"read": 0.75, "stack": 1.0}), 3, [first, second])
    assert total.costs.cpu_secs_each == 1.75 / 5


def test_what_a_rate_needs() -> None:
    costs = Costs(1000, {"read": 9.0, "decode": 9.0}, {"read": 0.5, "decode": 1.5})
    said = "an example takes 2.00 ms of a core, 75% of it to decode its image: 3,000 examples/s need 6.0 of"
    assert needs(costs, 3000) == f"{said} {num_cores()} cores"
    assert needs(Costs(), 3000) == ""
