"""The order of chips in a mesh, and of devices in a ring: each is linked to the next."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mmjax.parallel.mesh import MeshConfig, make_mesh, neighbour_cycle, ring_order


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


def node_of(device: jax.Device) -> int:
    """Two nodes, whose devices alternate in the order that JAX has them."""
    return device.id % 2


@pytest.mark.parametrize("sizes", [(2, 2, 2), (4, 2, 1), (8, 1, 1), (2, 1, 4)])
def test_each_node_has_a_part_of_the_data_axis_to_itself(sizes: tuple[int, int, int]) -> None:
    devices = make_mesh(MeshConfig(*sizes), jax.devices()[:8], node_of).devices
    assert devices.shape == sizes
    nodes = np.vectorize(node_of)(devices)
    assert (nodes == nodes[:, :1, :1]).all()
    assert sorted(device.id for device in devices.flat) == list(range(8))


def test_a_mesh_that_cannot_do_so_is_made_and_said_to_be_slow(caplog: pytest.LogCaptureFixture) -> None:
    devices = make_mesh(MeshConfig(1, 8, 1), jax.devices()[:8], node_of).devices
    assert devices.shape == (1, 8, 1)
    assert "does not give each of 2 slices or nodes (4, 4 devices) an equal part of the data axis" in caplog.text
