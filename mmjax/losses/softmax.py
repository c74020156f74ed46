"""The softmax loss in tiles, with its own backward pass: one sweep for the normalisers, one for the gradients."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmjax.losses.dense import MASKED
from mmjax.losses.row_tiles import Scalars, Sums
from mmjax.losses.tiles import Examples, Grid, Side, product, weighted
from mmjax.parallel.collectives import add_up
from mmjax.types import Array

Weights = tuple[Array | None, Array | None]
"""Of the rows and of the columns of a tile, as `weighted` takes them."""


class _Normaliser(NamedTuple):
    """Of one row, or of one column: the largest logit so far, and sum w exp(logit - largest)."""

    largest: Array
    total: Array

    def add(self, logits: Array, weights: Weights, axis: int) -> "_Normaliser":
        """With more logits along `axis`."""
        logits = _masked(logits, weights)
        largest = jnp.maximum(self.largest, jnp.max(logits, axis=axis))
        shares = weighted(jnp.exp(logits - jnp.expand_dims(largest, axis)), *weights)
        return _Normaliser(largest, self.total * jnp.exp(self.largest - largest) + jnp.sum(shares, axis=axis))


class _Hits(NamedTuple):
    """Of one row, or of one column: the sums of target x w x logit and of target x w."""

    sum: Array
    mass: Array


class _Statistics(NamedTuple):
    """Of one row, or of one column; `hits` may be left out."""

    normaliser: _Normaliser
    hits: _Hits | None

    @classmethod
    def start(cls, zeros: Array, *, with_hits: bool = True) -> "_Statistics":
        return cls(_Normaliser(zeros + MASKED, zeros), _Hits(zeros, zeros) if with_hits else None)

    def add(self, logits: Array, targets: Array, weights: Weights, axis: int) -> "_Statistics":
        normaliser = self.normaliser.add(logits, weights, axis)
        if self.hits is None:
            return _Statistics(normaliser, None)
        targets = weighted(targets, *weights)
        hits, mass = jnp.sum(targets * logits, axis=axis), jnp.sum(targets, axis=axis)
        return _Statistics(normaliser, _Hits(self.hits.sum + hits, self.hits.mass + mass))


class _Known(NamedTuple):
    """Of one row, or of one column, once all logits were seen; the log of a normaliser near 100 would lose digits."""

    largest: Array
    inverse_total: Array
    inverse_mass: Array

    @classmethod
    def of(cls, normaliser: _Normaliser, mass: Array) -> "_Known":
        """A row that does not count may have no mass, and where nothing counts there is no total."""
        return cls(normaliser.largest, *(jnp.where(x > 0, 1 / x, 0) for x in (normaliser.total, mass)))

    def losses(self, hits: Array) -> Array:
        """Cross-entropies, from the sums of `_Hits`."""
        return (
            self.largest - hits * self.inverse_mass - jnp.log(jnp.where(self.inverse_total > 0, self.inverse_total, 1))
        )

    def shares(self, logits: Array, axis: int) -> Array:
        """Softmax of each row (`axis` 1) or column (`axis` 0)."""
        largest, inverse_total = (jnp.expand_dims(x, axis) for x in (self.largest, self.inverse_total))
        return jnp.exp(logits - largest) * inverse_total


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def softmax_sum(grid: Grid, image_embed: Array, text_embed: Array, log_scale: Array, examples: Examples) -> Array:
    """The sum over rows and columns of `dense.softmax_sum`, of which this is the form for large batches.

    The first sweep takes the normalisers of rows and of columns, the latter with their columns; only these are kept for
    the backward pass, whose sweep computes each logit again. `examples` are constants: they have no gradient.
    """
    return _forward(grid, image_embed, text_embed, log_scale, examples)[0]


def _forward(
    grid: Grid, image_embed: Array, text_embed: Array, log_scale: Array, examples: Examples
) -> tuple[Array, Any]:
    def local(image: Array, text: Array, log_scale: Array, examples: Examples) -> tuple[Array, tuple[_Known, _Known]]:
        def pair(scalars: Scalars, row: Side, column: Side, targets: Array, sums: Sums) -> Sums:
            logits = scalars[0] * product("ie,je->ij", row.embed, column.embed)
            return Sums(
                sums.rows.add(logits, targets, (None, column.weights), axis=1),
                sums.columns.add(logits, targets, (row.weights, None), axis=0),
            )

        # Examples of one id have one mass, and between them the hits of their columns are those of their rows. So the
        # sum over all examples needs the rows' alone, unless soft targets tell the sides apart.
        two_sided = examples.soft_targets is not None
        start = Sums(_Statistics.start(grid.rows.full(0)), _Statistics.start(grid.columns.full(0), with_hits=two_sided))
        sums = grid.sweep(pair, (jnp.exp(log_scale),), image, text, examples, start, combine=_combine)
        rows, columns = jax.tree.map(grid.rows.join, sums.rows), jax.tree.map(grid.columns.join, sums.columns)
        weights = 1.0 if examples.weights is None else examples.weights
        hits = rows.hits, columns.hits if two_sided else rows.hits
        known = _Known.of(rows.normaliser, hits[0].mass), _Known.of(columns.normaliser, hits[1].mass)
        losses = known[0].losses(hits[0].sum) + known[1].losses(hits[1].sum)
        return jnp.sum(weights * losses) / 2, known

    total, known = grid.run(local, image_embed, text_embed, log_scale, examples)
    return total, (image_embed, text_embed, log_scale, examples, known)


def _backward(grid: Grid, kept: Any, cotangent: Array) -> tuple[Array | None, ...]:
    image_embed, text_embed, log_scale, examples, known = kept

    def local(
        image: Array, text: Array, log_scale: Array, examples: Examples, known: tuple[_Known, _Known], cotangent: Array
    ) -> tuple[Array, tuple[Array, Array]]:
        scale, width = jnp.exp(log_scale), image.shape[-1]

        def pair(scalars: Scalars, row: Side, column: Side, targets: Array, sums: Sums) -> Sums:
            slopes = _slopes(row, column, targets, *scalars)
            return Sums(
                sums.rows + product("ij,je->ie", slopes, column.embed),
                sums.columns + product("ij,ie->je", slopes, row.embed),
            )

        start = Sums(grid.rows.full(0, width), grid.columns.full(0, width))
        rows, columns = grid.sweep(pair, (scale,), image, text, examples, start, known=known)
        by_image, by_text = (
            scale / 2 * cotangent * grads for grads in (grid.rows.join(rows), grid.columns.join(columns))
        )
        # Scale and images enter the logits as their product alone, so what a larger scale does, longer images do.
        by_scale = jnp.sum(image.astype(jnp.float32) * by_image)
        return by_scale, (by_image.astype(image.dtype), by_text.astype(text.dtype))

    by_scale, by_embed = grid.run(local, image_embed, text_embed, log_scale, examples, known, cotangent)
    return *by_embed, by_scale, None


softmax_sum.defvjp(_forward, _backward)


def _slopes(row: Side, column: Side, targets: Array, scale: Array) -> Array:
    """The derivatives by the logits (i, j) of twice the loss: of both directions together."""
    weights = row.weights, column.weights
    logits = _masked(scale * product("ie,je->ij", row.embed, column.embed), weights)
    shares = row.known.shares(logits, 1) + column.known.shares(logits, 0)
    slopes = shares - targets * (row.known.inverse_mass[:, None] + column.known.inverse_mass)
    return weighted(slopes, *weights)


def _masked(logits: Array, weights: Weights) -> Array:
    """`MASKED` where a weight of the row or of the column is 0."""
    for axis, given in zip((1, 0), weights, strict=True):
        if given is not None:
            logits = jnp.where(jnp.expand_dims(given, axis) > 0, logits, MASKED)
    return logits


def _combine(columns: _Statistics, axes: tuple[str, ...]) -> _Statistics:
    """The statistics (devices, tiles, t) that each device made of all columns, put together for its own columns."""
    normaliser = columns.normaliser
    largest = jax.lax.pmax(normaliser.largest, axes)
    total = normaliser.total * jnp.exp(normaliser.largest - largest)
    total, hits = add_up((total, columns.hits), axes)
    return _Statistics(_Normaliser(largest[jax.lax.axis_index(axes)], total), hits)
