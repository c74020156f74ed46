"""The order of chips in a mesh of one axis: each is linked to the next."""

from types import SimpleNamespace

import jax
import pytest

from mmjax.parallel.mesh import neighbour_cycle


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


def test_a_part_of_a_slice_and_devices_without_places_keep_their_order():
    assert neighbour_cycle(chips(4, 4, 1)[:-1]) is None
    assert neighbour_cycle(jax.devices()) is None
