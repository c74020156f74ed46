"""The order of chips in a mesh, and of devices in a ring: each is linked to the next."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mmjax.parallel.mesh import neighbour_cycle, ring_order


def chips(*sizes: int) -> list[SimpleNamespace]:
    x, y, z = sizes
    return [SimpleNamespace(coords=(i, j, k)) for k in range(z) for j in range(y) for i in range(x)]


@pytest.mark.parametrize("sizes", [(2, 2, 1), (4, 4, 1), (2, 4, 1), (4, 3, 1), (16, 16, 1)], ids=str)
def test_each_chip_is_a_neighbour_of_the_next(sizes):
    devices = chips(*sizes)
    cycle = neighbour_cycle(devices)
    assert cycle is not None
    assert sorted(chip.coords for chip in cycle) == sorted(chip.coords for chip in devices)
    for chip, following in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
        assert sum(abs(a - b) for a, b in zip(chip.coords, following.coords, strict=True)) == 1


@pytest.mark.parametrize("sizes", [(3, 4, 1), (4, 1, 1), (2, 2, 2)], ids=str)
def test_no_cycle_is_made_of_other_slices(sizes):
    assert neighbour_cycle(chips(*sizes)) is None


@pytest.mark.parametrize("sizes", [(16, 16, 1), (2, 3, 1), (3, 2, 1), (2, 2, 2), (3, 4, 5), (4, 1, 3)], ids=str)
def test_a_ring_goes_one_step_along_one_axis_at_a_time(sizes):
    order = ring_order(sizes)
    assert sorted(order) == list(range(math.prod(sizes)))
    places = np.stack(np.unravel_index(order, sizes), axis=1)
    steps = np.abs(places - np.roll(places, -1, axis=0)).sum(axis=1)
    assert np.all(steps == 1)


@pytest.mark.parametrize("sizes", [(), (1,), (5, 1, 1), (3, 5, 1)], ids=str)
def test_other_rings_keep_their_order(sizes):
    assert ring_order(sizes) == tuple(range(math.prod(sizes)))


def test_a_part_of_a_slice_and_devices_without_places_keep_their_order():
    assert neighbour_cycle(chips(4, 4, 1)[:-1]) is None
    assert neighbour_cycle(jax.devices()) is None
