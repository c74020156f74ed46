"""The device mesh: three explicit axes, `data`, `fsdp` and `tensor`."""

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from mmjax.errors import UserError

AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1, which takes all devices that the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def axis_sizes(config: MeshConfig, num_devices: int) -> tuple[int, int, int]:
    """The three sizes with -1 filled in.

    Raises:
        UserError: more than one -1, a size that is neither -1 nor positive, or a mesh the devices cannot fill.
    """
    sizes = [getattr(config, axis) for axis in AXES]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"mesh sizes {_written(sizes)} are not valid: use positive sizes and at most one -1")
    fixed = math.prod(size for size in sizes if size != -1)
    filled = [num_devices // fixed if size == -1 else size for size in sizes]
    if math.prod(filled) > num_devices or 0 in filled:
        raise UserError(
            f"mesh {_written(sizes)} needs {fixed} devices but there are {num_devices}: lower mesh.data, "
            "mesh.fsdp or mesh.tensor, or start on more devices"
        )
    if -1 in sizes and num_devices % fixed:
        raise UserError(
            f"mesh {_written(sizes)} cannot fill {num_devices} devices: {fixed} does not divide them; "
            "change mesh.fsdp or mesh.tensor"
        )
    return filled[0], filled[1], filled[2]


def slice_of(device: Any) -> int:
    """The slice or node of a device, within which devices are joined by the faster network."""
    return getattr(device, "slice_index", 0)


def make_mesh(
    config: MeshConfig = MeshConfig(),
    devices: Sequence[jax.Device] | None = None,
    group_of: Callable[[Any], int] = slice_of,
) -> Mesh:
    """The mesh of `config` over `devices` (all by default), with explicit axes.

    Explicit means that the sharding is part of an array's type, so that a forgotten collective fails when the program
    is traced, on a laptop. Where one axis has all chips of a flat slice, they follow each other as neighbours, so that
    what travels around a ring goes over one link at a time. Of several slices or nodes (`group_of` a device), each has
    a part of the data axis to itself: once a step a gradient goes over the slower network between them, while what
    fsdp and tensor send at each layer stays within.

    Raises:
        UserError: as `axis_sizes`.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(config, len(devices))
    groups = _groups(devices[: math.prod(sizes)], group_of)
    data, *within = sizes
    if data % len(groups) or len({len(group) for group in groups}) > 1:
        logging.getLogger(__name__).warning(_across(sizes, groups))
        groups = [list(itertools.chain(*groups))]
    parts = [_arranged(group, (data // len(groups), *within)) for group in groups]
    return Mesh(np.concatenate(parts), AXES, axis_types=(AxisType.Explicit,) * 3)


def _groups(devices: Sequence[Any], group_of: Callable[[Any], int]) -> list[list[Any]]:
    """The devices of each slice or node, in its order."""
    ordered = sorted(devices, key=group_of)
    return [list(group) for _, group in itertools.groupby(ordered, key=group_of)]


def _arranged(devices: Sequence[Any], sizes: tuple[int, ...]) -> np.ndarray:
    """Devices that are joined by one network, as an array of these `sizes`."""
    cycle = neighbour_cycle(devices) if max(sizes) == len(devices) else None
    if cycle is not None:
        return np.asarray(cycle).reshape(sizes)
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Explicit,) * 3, devices=devices).devices


def _across(sizes: Sequence[int], groups: Sequence[Sequence[Any]]) -> str:
    """What is slow where the data axis cannot have the slices for itself."""
    counts = ", ".join(str(len(group)) for group in groups)
    return (
        f"mesh {_written(sizes)} does not give each of {len(groups)} slices or nodes ({counts} devices) an equal part "
        "of the data axis: fsdp or tensor go over the slower network between them"
    )


def neighbour_cycle(devices: Sequence[Any]) -> list[Any] | None:
    """The chips of a whole flat slice in an order in which each is linked to the next, and the last to the first.

    None where there is no such slice: devices without coordinates, three dimensions, an odd number of rows. The TPU
    compiler overlaps a permute with computation on large v5e slices only where it goes from neighbour to neighbour.
    """
    places = {tuple(device.coords): device for device in devices if getattr(device, "coords", None) is not None}
    rows, columns = (len({place[axis] for place in places}) for axis in (0, 1)) if places else (0, 0)
    if rows % 2 or columns < 2 or rows * columns != len(places) or len(places) != len(devices):
        return None
    ordered = sorted(places)
    return [places[ordered[cell]] for cell in _grid_cycle(rows, columns)]


def ring_order(sizes: Sequence[int]) -> tuple[int, ...]:
    """The devices of a mesh of these `sizes`, counted along its axes, in the order in which a ring visits them.

    Each is one step along one axis from the next, and the last from the first, so that what travels goes from neighbour
    to neighbour where the axes of the mesh are those of the slice. Of one axis, or of odd sizes, they are as counted.
    """
    rows, *others = [size for size in sizes if size > 1] or [1]
    columns = math.prod(others)
    path = _snake(others)
    if columns > 1 and rows % 2 == 0:
        cycle = _grid_cycle(rows, columns)
        return tuple(cell // columns * columns + path[cell % columns] for cell in cycle)
    if columns > 1 and columns % 2 == 0:
        cycle = _grid_cycle(columns, rows)
        return tuple(cell % rows * columns + path[cell // rows] for cell in cycle)
    return tuple(range(rows * columns))


def _grid_cycle(rows: int, columns: int) -> list[int]:
    """Cells of a grid of an even number of rows, counted along them: neighbours follow each other, and it closes."""
    # Back and forth over all columns but the first, and home through that.
    there = [
        row * columns + (column if row % 2 == 0 else columns - column)
        for row in range(rows)
        for column in range(1, columns)
    ]
    return there + [row * columns for row in reversed(range(rows))]


def _snake(sizes: Sequence[int]) -> list[int]:
    """Cells of a grid, counted along its last axis, as a path of neighbours: each line goes on where the last ended."""
    if not sizes:
        return [0]
    line, inner = _snake(sizes[1:]), math.prod(sizes[1:])
    return [row * inner + cell for row in range(sizes[0]) for cell in (line if row % 2 == 0 else line[::-1])]


def _written(sizes: Sequence[int]) -> str:
    return "(" + ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True)) + ")"
