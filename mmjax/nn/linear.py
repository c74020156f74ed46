"""The affine layer, its axes named by letters."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.nn import initializers
from jax.typing import DTypeLike

from mmjax.nn.module import Module
from mmjax.nn.parameter import Initializer, parameter, weight
from mmjax.parallel import rules
from mmjax.parallel.chips import SUBLANES
from mmjax.types import Array, Key

MANY_OUTPUTS = 512
"""Of a matrix, from which on its gradient is summed over positions as they are: measured on x86, see
`_product_of_rows`."""
PRODUCT, WIDE_PRODUCT = "product", "wide_product"
"""The names under which rematerialisation finds products with parameters; wide is what is wider than its input."""


class Linear(Module):
    """y = x W + b, where W (inputs, outputs) has the axes `dims`; by default it starts as in Glorot & Bengio, 2010,
    eq. 16.

    Heads lie side by side along an axis `n`, and `heads` says how many there are: an axis of their own, of 64 or 72
    numbers, would leave half of a TPU's registers empty wherever the matrix is updated.
    """

    def __init__(
        self,
        key: Key,
        dims: str,
        shape: tuple[int, int],
        *,
        heads: int | None = None,
        bias: bool = True,
        init: Initializer | None = None,
    ):
        self.dims = dims
        self.kernel = parameter(key, dims, shape, init or initializers.xavier_uniform(), heads=heads)
        self.bias = parameter(key, dims[1], shape[1:], initializers.zeros, heads=heads) if bias else None

    def __call__(self, x: Array) -> Array:
        """x (b, ..., inputs), in whose dtype it computes -> (b, ..., outputs)."""
        axes = Axes("bt"[: x.ndim - 1], *self.dims)
        matrix, bias = weight(self.kernel, x.dtype), self.bias_as(x.dtype)
        return _affine(axes, x, matrix, bias, _name(matrix))

    def bias_as(self, dtype: DTypeLike) -> Array | None:
        """The bias (outputs,), ready for use, where there is one."""
        return None if self.bias is None else weight(self.bias, dtype)


def joined(linears: Sequence[Linear], x: Array) -> tuple[Array, Array]:
    """What several layers with biases and axes `dn` make of x (b, t, d), by one product -> (b, t, m), biases (m,).

    Their outputs lie side by side: on each device the part that it holds of the first, then that of the second. The
    biases are added as constants: whoever asks for their gradients computes them from the second result.
    """
    axes = Axes("bt", "d", "n")
    matrices = [rules.split_over_tensor(linear.kernel[...].astype(x.dtype), "dn") for linear in linears]
    biases = [bias for linear in linears if (bias := linear.bias_as(x.dtype)) is not None]
    assert len(biases) == len(linears)
    # Joined before they are fetched: one fetch in place of several, and each device joins what it stores alone.
    matrix, bias = rules.gather(_side_by_side(matrices), "dn"), _side_by_side(biases)
    return _affine(axes, x, matrix, jax.lax.stop_gradient(bias), _name(matrices[0])), bias


def _side_by_side(arrays: Sequence[Array]) -> Array:
    """Joined along the last axis by each device for what it holds: nothing moves between devices."""

    def join(*parts: Array) -> Array:
        return jnp.concatenate(parts, axis=-1)

    if len(arrays) == 1:
        return arrays[0]
    spec: Any = rules.spec_of(arrays[0])
    return join(*arrays) if spec is None else jax.shard_map(join, in_specs=spec, out_specs=spec)(*arrays)


class Axes(NamedTuple):
    """The letters of the axes of a product: those in front, that of the inputs and that of the outputs."""

    leading: str
    input: str
    output: str


def _name(matrix: Array) -> str:
    return WIDE_PRODUCT if matrix.shape[1] > matrix.shape[0] else PRODUCT


def _affine(axes: Axes, x: Array, matrix: Array, bias: Array | None, name: str) -> Array:
    """x (b, ..., i) times `matrix` (i, o), found by `name` in rematerialisation, plus bias (o,) -> (b, ..., o)."""
    # On TPU the rows stay rows until the bias is added, so that one fusion does both.
    rows = rows_of(x, axes.input) if is_aligned(x) else x
    row_axes = axes._replace(leading="b") if rows.ndim < x.ndim else axes
    y = checkpoint_name(_product(row_axes, rows, matrix), name)
    y = y if bias is None else y + bias
    return y.reshape(*x.shape[:-1], -1, out_sharding=rules.spec(axes.leading + axes.output))


def _product(axes: Axes, x: Array, matrix: Array) -> Array:
    """x (b, ..., i) times `matrix` (i, o) -> (b, ..., o), in the form that is fastest where it runs."""
    if rules.runs_on_cpu():
        return _product_of_rows(axes, x, matrix)
    formula = f"{axes.leading}i,io->{axes.leading}o"
    return jnp.einsum(formula, x, matrix, out_sharding=rules.spec(axes.leading + axes.output))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product_of_rows(axes: Axes, x: Array, matrix: Array) -> Array:
    """`_product` as XLA runs it fastest on CPU; on TPU, layers of ViT-B take 1.3 times the cycles this way.

    Positions are flattened into rows: one product of two matrices beats a batched one. The gradient of a matrix with
    many outputs, and no more inputs, sums over positions as they are: of several axes XLA transposes x first, and then
    has a product that is up to 1.8 times as fast. Elsewhere the transposition costs more than that, as x is the larger
    array, or what made it is computed again one column at a time.
    """
    return _by_rows("bi,io->bo", axes, x, matrix)


def _forward(axes: Axes, x: Array, matrix: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product_of_rows(axes, x, matrix), (x, matrix)


def _backward(axes: Axes, kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, matrix = kept
    back = axes._replace(input=axes.output, output=axes.input)
    many = matrix.shape[1] >= max(MANY_OUTPUTS, matrix.shape[0])
    summed = axes.leading if many else "b"
    pair = (x, cotangent) if many else (rows_of(x, axes.input), rows_of(cotangent, axes.output))
    by_matrix = jnp.einsum(f"{summed}i,{summed}o->io", *pair, out_sharding=rules.spec(axes.input + axes.output))
    return _by_rows("bo,io->bi", back, cotangent, matrix), by_matrix


_product_of_rows.defvjp(_forward, _backward)


def _by_rows(formula: str, axes: Axes, x: Array, matrix: Array) -> Array:
    """`formula` of the rows of x (b, ..., i) and of `matrix` -> (b, ..., o)."""
    y = jnp.einsum(formula, rows_of(x, axes.input), matrix, out_sharding=rules.spec("b" + axes.output))
    return y.reshape(*x.shape[:-1], -1, out_sharding=rules.spec(axes.leading + axes.output))


def rows_of(x: Array, last: str) -> Array:
    """(b, ..., i) as (rows, i); `last` is the letter of i."""
    return x.reshape(-1, x.shape[-1], out_sharding=rules.spec("b" + last))


def is_aligned(x: Array) -> bool:
    """Whether x is (b, t, i) on TPU and its examples have whole tiles of positions.

    All positions of all examples are then the rows of one matrix as they lie.
    """
    return x.ndim == 3 and x.shape[1] % SUBLANES == 0 and rules.runs_on_tpu()
