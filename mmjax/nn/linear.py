"""The affine layer, its axes named by letters."""

import math

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jax.typing import DTypeLike

from mmjax.nn.parameter import Initializer, parameter, weight
from mmjax.parallel import rules
from mmjax.types import Array, Key


class Linear(nnx.Module):
    """y = x W + b, where W has axes `dims`, of which the first `num_inputs` are summed over.

    `Linear(key, "dnh", (width, heads, head_dim))` maps (b, t, d) to (b, t, n, h).
    """

    def __init__(
        self,
        key: Key,
        dims: str,
        shape: tuple[int, ...],
        *,
        num_inputs: int = 1,
        bias: bool = True,
        init: Initializer | None = None,
    ):
        self.dims, self.num_inputs = dims, num_inputs
        self.kernel = parameter(key, dims, shape, init or glorot_uniform(num_inputs))
        self.bias = parameter(key, dims[num_inputs:], shape[num_inputs:], initializers.zeros) if bias else None

    def __call__(self, x: Array) -> Array:
        """x (b, ..., inputs), in whose dtype it computes -> the same with outputs for inputs.

        Positions are flattened into rows: one product of two matrices, which XLA runs faster than a batched one on CPU.
        """
        leading = x.shape[: x.ndim - self.num_inputs]
        inputs, outputs = self.dims[: self.num_inputs], self.dims[self.num_inputs :]
        rows = x.reshape(-1, *x.shape[x.ndim - self.num_inputs :], out_sharding=rules.spec("b" + inputs))
        y = jnp.einsum(
            f"b{inputs},{self.dims}->b{outputs}",
            rows,
            weight(self.kernel, x.dtype),
            out_sharding=rules.spec("b" + outputs),
        )
        y = y if self.bias is None else y + weight(self.bias, x.dtype)
        positions = "bt"[: len(leading)]
        return y.reshape(*leading, *y.shape[1:], out_sharding=rules.spec(positions + outputs))


def glorot_uniform(num_inputs: int) -> Initializer:
    """Uniform in +-sqrt(6 / (inputs + outputs)) over the flattened axes (Glorot & Bengio, 2010, eq. 16)."""

    def init(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        fans = math.prod(shape[:num_inputs]), math.prod(shape[num_inputs:])
        return initializers.xavier_uniform()(key, fans, dtype).reshape(shape)

    return init
