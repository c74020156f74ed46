"""Normalisation over the last axes, always in float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from mmjax.nn.parameter import parameter, weight
from mmjax.types import Array, Key

SQUARED_LENGTH_FLOOR = 1e-24
"""Below this squared length (a length of 1e-12, as in torch.nn.functional.normalize) a vector counts as zero."""


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + eps) * scale + bias over the last axis (Ba et al., 2016, eq. 4).

    Over the last three axes of (b, y, x, c) it is group norm with one group (Wu and He, 2018): what a convolution finds
    at one place keeps its strength relative to other places. Scale and bias always belong to the last axis.
    """

    def __init__(self, key: Key, size: int, *, dims: str = "d", eps: float = 1e-6, num_axes: int = 1):
        self.eps = eps
        self.axes = tuple(range(-num_axes, 0))
        self.scale = parameter(key, dims, (size,), initializers.ones)
        self.bias = parameter(key, dims, (size,), initializers.zeros)

    def __call__(self, x: Array) -> Array:
        """x (..., size) -> the same shape and dtype; the arithmetic is float32."""
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=self.axes, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=self.axes, keepdims=True) + self.eps)
        y = centred * inverse * weight(self.scale, jnp.float32) + weight(self.bias, jnp.float32)
        return y.astype(x.dtype)


def l2_normalise(x: Array) -> Array:
    """x / |x| over the last axis, in float32; a zero vector stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    squared_length = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared_length, SQUARED_LENGTH_FLOOR))
