"""How all row tiles of a device meet one tile of columns: in a loop that XLA compiles, or in one Pallas kernel.

Both apply the same function to each row tile, and carry the sums of the columns from one to the next. Trees of rows
have arrays (tiles, t) and (tiles, t, e), those of columns (c,) and (c, e).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mmjax.parallel.collectives import Tile, Tiles, put, take
from mmjax.types import Array


class Sums(NamedTuple):
    """What a loss adds up for each row and for each column."""

    rows: Any
    columns: Any


Scalars = tuple[Array, ...]
Meet = Callable[[Scalars, Tile, Tile, Sums], Sums]
"""(scalars, a tile of rows, a tile of columns, sums of both) -> the sums with their logits in them."""


class RowTiles(Protocol):
    """A way to run `Meet` over all row tiles, which have a `multiple` of some number of rows."""

    @property
    def multiple(self) -> int: ...

    def lay_out(self, rows: Tiles) -> Tiles:
        """Rows, or sums of them, as this way wants them; done once, before all columns."""
        ...

    def restore(self, rows: Tiles) -> Tiles:
        """The inverse of `lay_out`."""
        ...

    def __call__(self, meet: Meet, scalars: Scalars, rows: Tiles, column: Tile, sums: Sums) -> Sums: ...


@dataclass(frozen=True)
class XlaLoop:
    """A loop over the tiles."""

    multiple: int = 1

    def lay_out(self, rows: Tiles) -> Tiles:
        return rows

    def restore(self, rows: Tiles) -> Tiles:
        return rows

    def __call__(self, meet: Meet, scalars: Scalars, rows: Tiles, column: Tile, sums: Sums) -> Sums:
        def step(tile: Array, sums: Sums) -> Sums:
            new = meet(scalars, take(rows, tile), column, Sums(take(sums.rows, tile), sums.columns))
            return Sums(put(sums.rows, new.rows, tile), new.columns)

        return jax.lax.fori_loop(0, jax.tree.leaves(rows)[0].shape[0], step, sums)


@dataclass(frozen=True)
class PallasKernel:
    """A Pallas kernel for TPU: embeddings and sums of the rows stay in the large memory and stream through the fast one
    block by block, while the columns and the logits never leave the fast one.

    In XLA's loop each slice, update and vector operation of a tile is a kernel of its own, and of short tiles these
    take several times as long as the products. Tiles have a multiple of 16 rows, which a register of bfloat16 holds.
    `interpret` runs it on CPU, slowly, for tests.
    """

    interpret: bool
    multiple: int = 16

    def lay_out(self, rows: Tiles) -> Tiles:
        """Numbers of rows lie in lanes: (tiles, t) as (tiles, 1, t)."""
        return jax.tree.map(_in_lanes, rows)

    def restore(self, rows: Tiles) -> Tiles:
        return jax.tree.map(lambda x: x[:, 0] if _is_in_lanes(x) else x, rows)

    def __call__(self, meet: Meet, scalars: Scalars, rows: Tiles, column: Tile, sums: Sums) -> Sums:
        columns, column_sums = jax.tree.map(lambda x: _in_lanes(x[None]), (column, sums.columns))
        constants, results = (jnp.stack(scalars), rows, columns), (sums.rows, column_sums)
        num_constants, num_results = (len(jax.tree.leaves(tree)) for tree in (constants, results))
        blocks = [jax.tree.map(_row_block, sums.rows), jax.tree.map(_column_block, column_sums)]
        new_rows, new_columns = pl.pallas_call(
            functools.partial(_meet_blocks, meet, len(scalars)),
            grid=(jax.tree.leaves(rows)[0].shape[0],),
            in_specs=[
                pl.BlockSpec(memory_space=pltpu.SMEM),
                jax.tree.map(_row_block, rows),
                jax.tree.map(_column_block, columns),
                *blocks,
            ],
            out_specs=blocks,
            out_shape=[jax.tree.map(self._shape, sums.rows), jax.tree.map(_same_shape, column_sums)],
            input_output_aliases={num_constants + position: position for position in range(num_results)},
            cost_estimate=_cost(meet, scalars, rows, column, sums),
            interpret=self.interpret,
            name="meet_row_tiles",
        )(constants[0], self._in_large_memory(rows), columns, self._in_large_memory(sums.rows), column_sums)
        return Sums(new_rows, _first(new_columns))

    def _in_large_memory(self, rows: Tiles) -> Tiles:
        """Left alone, XLA copies whole rows and their sums to the fast memory, which its count of memory shows."""
        if self.interpret:
            return rows
        return jax.tree.map(
            lambda x: x if _is_in_lanes(x) else pltpu.with_memory_space_constraint(x, pltpu.HBM),
            rows,
        )

    def _shape(self, x: Array) -> Any:
        return _same_shape(x) if self.interpret or _is_in_lanes(x) else pltpu.HBM(x.shape, x.dtype)


def _meet_blocks(
    meet: Meet, num_scalars: int, scalars: Any, rows: Any, columns: Any, row_sums: Any, column_sums: Any, *new: Any
) -> None:
    """The body of the kernel, of references to blocks: of the grid's row tile, and of the columns, always the same."""
    new_rows, new_columns = new

    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        jax.tree.map(_write, new_columns, jax.tree.map(lambda ref: ref[...], column_sums))

    row, column, sums = jax.tree.map(_read, (rows, columns, Sums(row_sums, new_columns)))
    met = meet(tuple(scalars[position] for position in range(num_scalars)), row, column, sums)
    jax.tree.map(_write, new_rows, met.rows)
    jax.tree.map(_write, new_columns, met.columns)


def _cost(meet: Meet, scalars: Scalars, rows: Tiles, column: Tile, sums: Sums) -> pl.CostEstimate:
    """What the compiler cannot see in a kernel, for it to schedule by and to write into the compiled program."""
    one = pl.estimate_cost(meet, scalars, _first(rows), column, Sums(_first(sums.rows), sums.columns))
    num_tiles, moved = jax.tree.leaves(rows)[0].shape[0], _num_bytes((rows, column)) + 2 * _num_bytes(sums)
    return pl.CostEstimate(
        flops=num_tiles * one.flops, transcendentals=num_tiles * one.transcendentals, bytes_accessed=moved
    )


def _num_bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _in_lanes(x: Array) -> Array:
    return x[:, None] if x.ndim == 2 else x


def _is_in_lanes(x: Array) -> bool:
    return x.shape[1] == 1


def _first(tiles: Tiles) -> Tile:
    """The first tile, its numbers out of the lanes again."""
    return jax.tree.map(lambda x: x[0, 0] if _is_in_lanes(x) else x[0], tiles)


def _same_shape(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _row_block(x: Array) -> pl.BlockSpec:
    return pl.BlockSpec((None, *x.shape[1:]), lambda tile: (tile, 0, 0))


def _column_block(x: Array) -> pl.BlockSpec:
    return pl.BlockSpec((None, *x.shape[1:]), lambda tile: (0, 0, 0))


def _read(ref: Any) -> Array:
    return ref[0] if ref.shape[0] == 1 else ref[...]


def _write(ref: Any, value: Array) -> None:
    ref[...] = value.reshape(ref.shape)
