"""The sigmoid loss in tiles, with its own backward pass: one sweep gives the value and both gradients."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmjax.losses.row_tiles import Scalars, Sums
from mmjax.losses.tiles import Examples, Grid, Side, product, weighted
from mmjax.types import Array


class _RowSums(NamedTuple):
    loss: Array
    log_scale_grad: Array
    bias_grad: Array
    embed_grad: Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sigmoid_sum(
    grid: Grid, image_embed: Array, text_embed: Array, log_scale: Array, bias: Array, examples: Examples
) -> Array:
    """The sum over all pairs of `dense.sigmoid_sum`, of which this is the form for large batches.

    Under differentiation the value and the gradients come from one sweep, in which the gradient of each column travels
    with it; the backward pass only scales them. `examples` are constants: they have no gradient.
    """

    def local(image: Array, text: Array, log_scale: Array, bias: Array, examples: Examples) -> tuple[Array, None]:
        def pair(scalars: Scalars, row: Side, column: Side, targets: Array, sums: Sums) -> Sums:
            _, losses, _ = _pair(row, column, targets, *scalars)
            return Sums(sums.rows + jnp.sum(losses, axis=1), None)

        scalars = jnp.exp(log_scale), bias
        return jnp.sum(grid.sweep(pair, scalars, image, text, examples, Sums(grid.rows.full(0), None)).rows), None

    return grid.run(local, image_embed, text_embed, log_scale, bias, examples)[0]


def _forward(
    grid: Grid, image_embed: Array, text_embed: Array, log_scale: Array, bias: Array, examples: Examples
) -> tuple[Array, Any]:
    def local(image: Array, text: Array, log_scale: Array, bias: Array, examples: Examples) -> tuple[Any, Any]:
        scale, width = jnp.exp(log_scale), image.shape[-1]

        def pair(scalars: Scalars, row: Side, column: Side, targets: Array, sums: Sums) -> Sums:
            logits, losses, slopes = _pair(row, column, targets, *scalars)
            new = _RowSums(
                jnp.sum(losses, axis=1),
                jnp.sum(slopes * (logits - scalars[1]), axis=1),
                jnp.sum(slopes, axis=1),
                product("ij,je->ie", slopes, column.embed),
            )
            return Sums(jax.tree.map(jnp.add, sums.rows, new), sums.columns + product("ij,ie->je", slopes, row.embed))

        zeros = grid.rows.full(0)
        start = Sums(_RowSums(zeros, zeros, zeros, grid.rows.full(0, width)), grid.columns.full(0, width))
        rows, columns = grid.sweep(pair, (scale, bias), image, text, examples, start)
        by_embed = scale * grid.rows.join(rows.embed_grad), scale * grid.columns.join(columns)
        return tuple(jnp.sum(x) for x in rows[:3]), by_embed

    (total, *by_scalars), by_embed = grid.run(local, image_embed, text_embed, log_scale, bias, examples)
    return total, (
        *(grad.astype(x.dtype) for grad, x in zip(by_embed, (image_embed, text_embed), strict=True)),
        *by_scalars,
    )


def _backward(grid: Grid, grads: tuple[Array, ...], cotangent: Array) -> tuple[Array | None, ...]:
    return *(cotangent.astype(grad.dtype) * grad for grad in grads), None


sigmoid_sum.defvjp(_forward, _backward)


def _pair(row: Side, column: Side, targets: Array, scale: Array, bias: Array) -> tuple[Array, Array, Array]:
    """Logits (i, j), weighted losses, and their derivatives by the logits."""
    logits = scale * product("ie,je->ij", row.embed, column.embed) + bias
    odds = jnp.exp(-jnp.abs(logits))
    losses = jnp.maximum(logits, 0) - targets * logits + jnp.log1p(odds)
    shares = jnp.where(logits >= 0, 1, odds) / (1 + odds)
    weights = row.weights, column.weights
    return logits, weighted(losses, *weights), weighted(shares - targets, *weights)
