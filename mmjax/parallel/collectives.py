"""How the rows of each device meet the columns of all devices: `Ring` passes tiles on, `Gather` fetches all at once.

Both run inside `jax.shard_map` over `axes`, and both show every tile of columns of every device to every device. What
a device has of columns is cut into tiles: arrays (tiles, rows of a tile, ...). With the columns go sums, one for each
column, to which every device adds its part; at the end each device has the complete sums of its own columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from mmjax.types import Array

Tiles = Any
"""A tree of arrays (tiles, rows of a tile, ...)."""
Tile = Any
"""The same tree without the first dimension."""


class Place(NamedTuple):
    """Where a tile is at home: which device, counted along the axes, and which of its tiles."""

    device: Array
    tile: Array


Visit = Callable[[Any, Tile, Tile, Place], tuple[Any, Tile]]
"""(what the device keeps, a tile of columns, the tile of their sums, its place) -> the kept and the sums, updated."""
Combine = Callable[[Tiles, tuple[str, ...]], Tiles]
"""Sums (devices, tiles, ...) that each device made alone -> the complete sums (tiles, ...) of its own columns."""


class Schedule(Protocol):
    """An order in which all columns are visited."""

    @property
    def axes(self) -> tuple[str, ...]: ...

    @property
    def num_devices(self) -> int: ...

    def __call__(self, visit: Visit, kept: Any, columns: Tiles, sums: Tiles, combine: Combine) -> tuple[Any, Tiles]: ...


@dataclass(frozen=True)
class Packing:
    """How numbers of columns, (t,) or (tiles, t), share one array a type: one small collective in place of several."""

    structure: Any
    types: tuple[Any, ...]
    """Of each leaf; None of one that stays as it is."""

    @classmethod
    def of(cls, tiles: Tiles) -> "Packing":
        leaves, structure = jax.tree.flatten(tiles)
        return cls(structure, tuple(leaf.dtype if leaf.ndim == 2 else None for leaf in leaves))

    def pack(self, tree: Any) -> Any:
        """(the leaves that stay, {type: its numbers (..., k, t)})."""
        leaves = list(zip(self.types, jax.tree.leaves(tree), strict=True))
        numbers = dict.fromkeys(kind for kind in self.types if kind is not None)
        stacks = {str(kind): jnp.stack([x for k, x in leaves if k == kind], axis=-2) for kind in numbers}
        return [x for kind, x in leaves if kind is None], stacks

    def unpack(self, packed: Any) -> Any:
        """The inverse of `pack`."""
        whole, stacks = iter(packed[0]), {name: iter(jnp.moveaxis(x, -2, 0)) for name, x in packed[1].items()}
        leaves = [next(whole) if kind is None else next(stacks[str(kind)]) for kind in self.types]
        return jax.tree.unflatten(self.structure, leaves)


@dataclass(frozen=True)
class Ring:
    """Tiles go from device to device and come home after a round.

    While one tile is visited, the one visited before is on its way, with its sums: only that one tile is held twice,
    and sending overlaps with computing. Each device sends its columns and their sums `num_devices` times in tiles.
    """

    axes: tuple[str, ...]
    order: tuple[int, ...]
    """The devices along the axes in the order in which tiles pass them."""

    @property
    def num_devices(self) -> int:
        return len(self.order)

    def __call__(self, visit: Visit, kept: Any, columns: Tiles, sums: Tiles, combine: Combine) -> tuple[Any, Tiles]:
        """Every device needs the same number of tiles, two or more unless it is alone."""
        num_tiles = _length(columns)
        if self.num_devices == 1:
            return _visit_all(visit, kept, columns, sums, lambda tile: Place(jnp.zeros_like(tile), tile))
        packings = Packing.of(columns), Packing.of(sums)
        columns, sums = packings[0].pack(columns), packings[1].pack(sums)
        if num_tiles < 2:
            raise ValueError("a ring of several devices needs two tiles or more: one travels while one is visited")
        last, here = num_tiles - 1, _looked_up(np.argsort(self.order), jax.lax.axis_index(self.axes))

        def step(count: Array, carry: tuple[Any, Tiles, Tiles]) -> tuple[Any, Tiles, Tiles]:
            kept, columns, sums = carry
            turn, visited = jnp.divmod(count, num_tiles)
            leaving = (count - 1) % num_tiles
            # The last tile leaves before its first visit, so it is one device further.
            home = _looked_up(self.order, (here - turn - jnp.where(visited == last, 1, 0)) % self.num_devices)
            # All reads come before all writes, or the compiler would copy the whole arrays.
            tile, tile_sums, *gone = jax.lax.optimization_barrier(
                (take(columns, visited), take(sums, visited), take(columns, leaving), take(sums, leaving))
            )
            arrived, arrived_sums = self._pass_on(gone)
            tile, tile_sums = packings[0].unpack(tile), packings[1].unpack(tile_sums)
            kept, tile_sums = visit(kept, tile, tile_sums, Place(home, visited))
            sums = put(put(sums, packings[1].pack(tile_sums), visited), arrived_sums, leaving)
            return kept, put(columns, arrived, leaving), sums

        kept, _, sums = jax.lax.fori_loop(0, self.num_devices * num_tiles, step, (kept, columns, sums))
        return kept, packings[1].unpack(sums)

    def _pass_on(self, tree: Any) -> Any:
        to_next = list(zip(self.order, self.order[1:] + self.order[:1], strict=True))
        return jax.tree.map(lambda x: jax.lax.ppermute(x, self.axes, to_next), tree)


@dataclass(frozen=True)
class Gather:
    """Every device first fetches the columns of all, visits them, and combines the sums with the others at the end.

    A few collectives in place of many, for memory that grows with the number of columns of all devices.
    """

    axes: tuple[str, ...]
    num_devices: int

    def __call__(self, visit: Visit, kept: Any, columns: Tiles, sums: Tiles, combine: Combine) -> tuple[Any, Tiles]:
        num_tiles = _length(columns)
        if self.num_devices > 1:
            columns = jax.tree.map(lambda x: jax.lax.all_gather(x, self.axes, tiled=True), columns)
            sums = jax.tree.map(lambda x: jnp.tile(x, (self.num_devices,) + (1,) * (x.ndim - 1)), sums)
        kept, sums = _visit_all(visit, kept, columns, sums, lambda tile: Place(*jnp.divmod(tile, num_tiles)))
        if self.num_devices > 1:
            sums = jax.tree.map(lambda x: x.reshape(self.num_devices, num_tiles, *x.shape[1:]), sums)
            sums = combine(sums, self.axes)
        return kept, sums


def add_up(sums: Tiles, axes: tuple[str, ...]) -> Tiles:
    """`Combine` for sums that are added: a reduce-scatter."""
    return jax.tree.map(lambda x: jax.lax.psum_scatter(x, axes), sums)


def shard_rows(
    function: Callable[..., tuple[Any, Any]], mesh: AbstractMesh | None, axes: tuple[str, ...]
) -> Callable[..., Any]:
    """`function` run by each device on its rows of all arrays; scalars are whole everywhere.

    Of the pair of trees it returns, the first is added up over `axes` and the second is arrays of its rows. Without a
    mesh it is `function` itself.
    """
    if mesh is None:
        return function

    def added(*args: Any) -> tuple[Any, Any]:
        sums, rows = function(*args)
        return jax.lax.psum(sums, axes), rows

    def sharded(*args: Any) -> tuple[Any, Any]:
        specs = jax.tree.map(lambda x: P(axes) if x.ndim else P(), args)
        return jax.shard_map(added, mesh=mesh, in_specs=specs, out_specs=(P(), P(axes)), check_vma=False)(*args)

    return sharded


def _visit_all(
    visit: Visit, kept: Any, columns: Tiles, sums: Tiles, place: Callable[[Array], Place]
) -> tuple[Any, Tiles]:
    def step(count: Array, carry: tuple[Any, Tiles]) -> tuple[Any, Tiles]:
        kept, sums = carry
        kept, tile_sums = visit(kept, take(columns, count), take(sums, count), place(count))
        return kept, put(sums, tile_sums, count)

    return jax.lax.fori_loop(0, _length(columns), step, (kept, sums))


def _looked_up(numbers: Sequence[int] | np.ndarray, index: Array) -> Array:
    """`numbers[index]`, without a table where each number is its own index."""
    table = np.asarray(numbers, np.int32)
    return index if np.array_equal(table, np.arange(len(table))) else jnp.asarray(table)[index]


def _length(tiles: Tiles) -> int:
    return jax.tree.leaves(tiles)[0].shape[0]


def take(tiles: Tiles, tile: Array) -> Tile:
    """The tile of that number."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, tile, keepdims=False), tiles)


def put(tiles: Tiles, value: Tile, tile: Array) -> Tiles:
    """The tiles with that one replaced."""
    return jax.tree.map(lambda x, v: jax.lax.dynamic_update_index_in_dim(x, v, tile, 0), tiles, value)
