"""The device mesh: three explicit axes, `data`, `fsdp` and `tensor`."""

import math
from collections.abc import Sequence
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


def make_mesh(config: MeshConfig = MeshConfig(), devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `config` over `devices` (all by default), with explicit axes.

    Explicit means that the sharding is part of an array's type, so that a forgotten collective fails when the program
    is traced, on a laptop. Where one axis has all chips of a flat slice, they follow each other as neighbours, so that
    what travels around a ring goes over one link at a time.

    Raises:
        UserError: as `axis_sizes`.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(config, len(devices))
    chosen, explicit = devices[: math.prod(sizes)], (AxisType.Explicit,) * 3
    cycle = neighbour_cycle(chosen) if max(sizes) == len(chosen) else None
    if cycle is None:
        return jax.make_mesh(sizes, AXES, axis_types=explicit, devices=chosen)
    return Mesh(np.asarray(cycle).reshape(sizes), AXES, axis_types=explicit)


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
    grid = [ordered[row * columns : (row + 1) * columns] for row in range(rows)]
    # Back and forth over all columns but the first, and home through that.
    there = [place for row, line in enumerate(grid) for place in (line[1:] if row % 2 == 0 else line[:0:-1])]
    return [places[place] for place in there + [line[0] for line in reversed(grid)]]


def _written(sizes: Sequence[int]) -> str:
    return "(" + ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True)) + ")"
