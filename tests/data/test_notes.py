"""What rows take is counted by stage, and says what a rate of them needs."""

import time

import pytest

from mmjax.data.notes import Costs, Notes, Unusable, joined, needs, num_cores


def test_a_block_counts_for_its_stage() -> None:
    costs = Costs()
    for _ in range(2):
        with costs.timed("read"):
            time.sleep(0.02)
    with costs.timed("decode"):
        sum(range(10**6))
    assert costs.secs["read"] >= 0.04
    assert costs.cpu_secs["read"] < 0.02
    assert costs.cpu_secs["decode"] == pytest.approx(costs.secs["decode"], rel=0.9)


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
