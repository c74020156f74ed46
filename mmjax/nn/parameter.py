"""Parameters: an array, and the letters of its axes, declared once where the layer is written."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from mmjax.parallel import rules
from mmjax.types import Array, Key

PARAM_DTYPE = jnp.float32
"""Parameters are born and updated in float32, whatever the layers compute in."""

Initializer = Callable[[Key, tuple[int, ...], DTypeLike], Array]

BERT_INIT: Initializer = initializers.truncated_normal(0.02)
"""Of matrices and tables: a normal of that deviation, cut off at two of it, as in BERT's released code. PyTorch's
copies of BERT, and the vision-language models made of them, draw from one that is not cut off."""


def parameter(
    key: Key,
    dims: str,
    shape: tuple[int, ...],
    init: Initializer,
    *,
    rows: int | None = None,
    heads: int | None = None,
) -> nnx.Param[Array]:
    """A float32 parameter of `shape` whose axes are the letters `dims`, drawn by `init(key, shape, dtype)`.

    `rows` says how many leading rows mean anything: those after it are storage padding, which start at zero, never
    reach a result, and so keep a zero gradient. `heads` says how many heads lie side by side along an axis `n`: the
    mesh splits them from each other, and none in itself.

    Raises:
        ValueError: `dims` and `shape` differ in length.
    """
    if len(dims) != len(shape):
        raise ValueError(f"parameter dimensions {dims!r} do not name the axes of shape {shape}")
    value = init(key, shape, PARAM_DTYPE)
    if rows is not None:
        value = value.at[rows:].set(0.0)
    return nnx.Param(value, dims=dims, rows=rows, heads=heads)


def statistic(dims: str, shape: tuple[int, ...], value: float) -> nnx.Param[Array]:
    """An array that is kept with the parameters but not learned: it follows what the layer sees in training.

    Its gradient is its distance from what was seen (see `norm.BatchNorm`), and the optimizer goes a part of that way.
    """
    # Without rows that mean anything as weights, it is left out of the number of parameters.
    return nnx.Param(jnp.full(shape, value, PARAM_DTYPE), dims=dims, rows=0)


def dims_of(param: nnx.Variable) -> str:
    """The letters of `param` as it is stored: those of one layer, with `l` in front of them in a stack."""
    dims: str = param.get_metadata("dims")
    return "l" * (param.ndim - len(dims)) + dims


def storage_spec_of(param: nnx.Variable, mesh: jax.sharding.Mesh) -> PartitionSpec:
    """How `param` is stored on `mesh`.

    Raises:
        UserError: a dimension does not divide by the `tensor` axis.
    """
    return rules.storage_spec(dims_of(param), param.shape, mesh, heads=param.get_metadata("heads", None))


def weight(param: nnx.Param[Array], dtype: DTypeLike) -> Array:
    """The parameter of one layer, ready for use: in `dtype`, whole over fsdp, split over tensor.

    It is cast before it is gathered, so that bfloat16 compute also halves the bytes of the all-gather.
    """
    return rules.gather(param[...].astype(dtype), param.get_metadata("dims"))


def num_parameters(module: nnx.Module) -> int:
    """How many numbers are learned; storage padding is left out. Also right for a module made by `nnx.eval_shape`."""
    return sum(_logical_size(param) for _, param in nnx.to_flat_state(nnx.state(module, nnx.Param)))


def _logical_size(param: nnx.Variable) -> int:
    rows: int | None = param.get_metadata("rows")
    padding = 0 if rows is None else (param.shape[0] - rows) * math.prod(param.shape[1:])
    return math.prod(param.shape) - padding
