"""A contrastive loss tile by tile: logits exist only for a tile of image rows and a tile of text columns.

A loss is a function of two tiles (`Pair`) with sums for the rows and for the columns. The rows stay on their device; a
schedule (`parallel.collectives`) brings the columns of all devices, and their sums with them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from mmjax.losses.row_tiles import PallasKernel, RowTiles, Scalars, Sums, XlaLoop
from mmjax.parallel import rules
from mmjax.parallel.collectives import Combine, Place, Schedule, Tile, Tiles, add_up, shard_rows, take
from mmjax.types import Array

Kernel = Literal["xla", "pallas"]


class Examples(NamedTuple):
    """What is known of each example; what is None costs neither memory nor communication.

    ids: int32 (b,), equal ids are pairs; by default each example is a pair of itself.
    weights: float32 (b,), how many examples it stands for; by default 1.
    soft_targets: float32 (b, b), the target of a pair of two examples of different ids; by default 0.
    """

    ids: Array | None = None
    weights: Array | None = None
    soft_targets: Array | None = None


class Side(NamedTuple):
    """A tile of one side: embeddings (t, e), int32 ids (t,), weights (t,), 0 where the tile is padded, and what else
    the loss knows of each row: a tree of (t,). Where no tile is padded and all examples count once, weights are None.
    """

    embed: Array
    ids: Array
    weights: Array | None
    known: Any


Pair = Callable[[Scalars, Side, Side, Array, Sums], Sums]
"""(scalars, rows, columns, targets (i, j), sums of these tiles) -> the sums with these logits in them."""


@dataclass(frozen=True)
class Cut:
    """`length` rows as `num_tiles` equal tiles, the last of which may be padded."""

    length: int
    num_tiles: int
    tile: int

    @property
    def is_padded(self) -> bool:
        return self.num_tiles * self.tile != self.length

    @classmethod
    def of(cls, length: int, tile: int, least: int = 1, multiple: int = 1) -> "Cut":
        """Tiles of at most `tile` rows rounded up to a `multiple`, at least `least` of them."""
        num_tiles = max(least, _ceil(length, _ceil(tile, multiple) * multiple))
        return cls(length, num_tiles, _ceil(length, num_tiles * multiple) * multiple)

    def split(self, x: Array) -> Array:
        """(length, ...) as (tiles, t, ...), padded with zeros."""
        if self.is_padded:
            padding = self.num_tiles * self.tile - self.length
            x = jnp.pad(x, ((0, padding), *((0, 0),) * (x.ndim - 1)))
        return x.reshape(self.num_tiles, self.tile, *x.shape[1:])

    def join(self, x: Array) -> Array:
        """The inverse of `split`."""
        return x.reshape(-1, *x.shape[2:])[: self.length]

    def full(self, value: float, *dims: int) -> Array:
        """Float32 (tiles, t, ...) of one value."""
        return jnp.full((self.num_tiles, self.tile, *dims), value, jnp.float32)


@dataclass(frozen=True)
class Grid:
    """How the devices' rows meet all columns: the schedule, and the tiles of each device on both sides."""

    mesh: AbstractMesh | None
    schedule: Schedule
    rows: Cut
    columns: Cut
    row_tiles: RowTiles

    @classmethod
    def of(
        cls, mesh: AbstractMesh | None, schedule: Schedule, rows: tuple[int, int], tile: int | None, kernel: Kernel
    ) -> "Grid":
        """Tiles of at most `tile` of each device's `rows` (number, width), on both sides, by default as suits the
        `kernel`: `xla_tiles` or `pallas_tiles`."""
        device_kind = rules.device_kind(mesh)
        if kernel == "pallas":
            row_tiles: RowTiles = PallasKernel(interpret=device_kind == "cpu")
            row_tile, column_tile = pallas_tiles(*rows, tile)
        else:
            row_tiles = XlaLoop()
            row_tile, column_tile = xla_tiles(rows[0], device_kind) if tile is None else (tile, tile)
        # Of two tiles or more, one can travel in a ring while another is visited.
        least, multiple = 1 if schedule.num_devices == 1 else 2, row_tiles.multiple
        row_cut = Cut.of(rows[0], row_tile, multiple=multiple)
        return cls(mesh, schedule, row_cut, Cut.of(rows[0], column_tile, least, multiple), row_tiles)

    def run(self, function: Callable[..., tuple[Any, Any]], *args: Any) -> tuple[Any, Any]:
        """(sums over all devices, rows) of `function`, which each device runs on its rows of `args`."""
        return shard_rows(function, self.mesh, self.schedule.axes)(*args)

    def sweep(
        self,
        pair: Pair,
        scalars: Scalars,
        image: Array,
        text: Array,
        examples: Examples,
        sums: Sums,
        *,
        known: tuple[Any, Any] = (None, None),
        combine: Combine = add_up,
    ) -> Sums:
        """The sums of `pair` over all columns for each row of this device, and over all rows for each of its columns.

        `image` and `text` (rows of this device, e); `known` of the rows and of the columns; `sums` are those to begin
        with, in tiles, as are those that are returned. To be called inside `run`.
        """
        columns = self._columns(text, examples, known[1])
        rows, kept = self.row_tiles.lay_out((self._rows(image, examples, known[0]), sums.rows))
        soft_targets = self._soft_tiles(examples.soft_targets)

        def meet(scalars: Scalars, row: tuple[Side, Array | None], column: Side, sums: Sums) -> Sums:
            side, soft_targets = row
            return pair(scalars, side, column, _targets(side.ids, column.ids, soft_targets), sums)

        def visit(kept: Tiles, column: Tile, column_sums: Tile, place: Place) -> tuple[Tiles, Tile]:
            all_rows = rows, _soft_columns(soft_targets, place)
            return self.row_tiles(meet, scalars, all_rows, self._column(column, place), Sums(kept, column_sums))

        kept, column_sums = self.schedule(visit, kept, columns, sums.columns, combine)
        return Sums(self.row_tiles.restore(kept), column_sums)

    def _rows(self, embed: Array, examples: Examples, known: Any) -> Side:
        num_rows = self.rows.length
        ids, weights = examples.ids, examples.weights
        if ids is None:
            ids = self._here() * num_rows + jnp.arange(num_rows, dtype=jnp.int32)
        if weights is None and self.rows.is_padded:
            weights = jnp.ones(num_rows, jnp.float32)
        return jax.tree.map(self.rows.split, Side(embed, ids, weights, known))

    def _columns(self, embed: Array, examples: Examples, known: Any) -> Tiles:
        return jax.tree.map(self.columns.split, (embed, examples.ids, examples.weights, known))

    def _column(self, sent: Tile, place: Place) -> Side:
        """A tile of columns with the ids and weights that were not sent because they follow from its place."""
        embed, ids, weights, known = sent
        index = place.tile * self.columns.tile + jnp.arange(self.columns.tile, dtype=jnp.int32)
        if ids is None:
            ids = place.device * self.columns.length + index
        if weights is None and self.columns.is_padded:
            weights = (index < self.columns.length).astype(jnp.float32)
        return Side(embed, ids, weights, known)

    def _soft_tiles(self, soft_targets: Array | None) -> Array | None:
        """(rows of this device, all columns) as (devices, tiles of columns, tiles of rows, t, c)."""
        if soft_targets is None:
            return None
        by_device = soft_targets.astype(jnp.float32).reshape(self.rows.length, -1, self.columns.length)
        by_tile = jax.vmap(jax.vmap(self.columns.split))(by_device)
        return jnp.moveaxis(self.rows.split(by_tile), (2, 3), (0, 1))

    def _here(self) -> Array:
        return jnp.zeros((), jnp.int32) if self.mesh is None else jax.lax.axis_index(self.schedule.axes)


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)


def xla_tiles(num_rows: int, device_kind: str) -> tuple[int, int]:
    """The most rows and the most columns of a tile where a device has `num_rows`: an eighth and a sixteenth of them,
    128 to 512; on a CPU 256 and 512.

    Columns on their way should take little beside what stays, but a product of two tiles should not be short (a CPU
    minds that sooner than the matrix unit of a TPU), and their logits should not leave the fast memory.
    """
    if device_kind == "cpu":
        return 256, 512
    rows, columns = (min(max(num_rows // parts, 128), 512) for parts in (8, 16))
    return rows, columns


def pallas_tiles(num_rows: int, width: int, tile: int | None) -> tuple[int, int]:
    """The most rows and columns of a tile of the Pallas kernel: 256, but of the columns an eighth of those of a device,
    128 or more; at most `tile`. Fewer where blocks of that many embeddings would not fit the fast memory.
    """
    most = max(int(256 * min(1.0, 768 / width)), 1)
    if tile is not None:
        return min(tile, most), min(tile, most)
    return most, min(max(num_rows // 8, 128), most)


def product(equation: str, left: Array, right: Array) -> Array:
    """A float32 einsum of embeddings and something: exact products of what the embeddings' type can hold.

    `left` is rounded to the type of `right`: of bfloat16 embeddings the gradient is known no better than that, and one
    pass of a matrix unit has their products.
    """
    exact = jax.lax.Precision.HIGHEST if right.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    left = left.astype(right.dtype)
    return jnp.einsum(equation, left, right, precision=exact, preferred_element_type=jnp.float32)


def weighted(x: Array, row_weights: Array | None, column_weights: Array | None) -> Array:
    """x (i, j) times the weights of its rows and of its columns; None are weights of 1, and cost nothing."""
    x = x if row_weights is None else row_weights[:, None] * x
    return x if column_weights is None else column_weights * x


def _targets(row_ids: Array, column_ids: Array, soft_targets: Array | None) -> Array:
    same = row_ids[:, None] == column_ids[None, :]
    return same.astype(jnp.float32) if soft_targets is None else jnp.where(same, 1.0, soft_targets)


def _soft_columns(soft_tiles: Array | None, place: Place) -> Array | None:
    """(tiles, t, c): those of one tile of columns."""
    return None if soft_tiles is None else take(take(soft_tiles, place.device), place.tile)
