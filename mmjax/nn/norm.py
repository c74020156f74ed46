"""Normalisation over the last axes, always in float32."""

import functools

import jax
import jax.numpy as jnp
from jax.nn import initializers

from mmjax.nn.module import Module
from mmjax.nn.parameter import parameter, statistic, weight
from mmjax.parallel import rules
from mmjax.types import Array, Key

SQUARED_LENGTH_FLOOR = 1e-24
"""Below this squared length (a length of 1e-12, as in torch.nn.functional.normalize) a vector counts as zero."""


class LayerNorm(Module):
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
        return _normalised(x, weight(self.scale, jnp.float32), weight(self.bias, jnp.float32), self.axes, self.eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalised(x: Array, scale: Array, bias: Array, axes: tuple[int, ...], eps: float) -> Array:
    """See `LayerNorm`; for the gradient x is kept in its own dtype, and no array of its size in float32."""
    return _normalised_forward(x, scale, bias, axes, eps)[0]


def _normalised_forward(
    x: Array, scale: Array, bias: Array, axes: tuple[int, ...], eps: float
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    x32 = x.astype(jnp.float32)
    mean = jnp.mean(x32, axis=axes, keepdims=True)
    inverse = jax.lax.rsqrt(_variance(x, x32, mean, axes) + eps)
    return ((x32 - mean) * inverse * scale + bias).astype(x.dtype), (x, scale, mean, inverse)


def _variance(x: Array, x32: Array, mean: Array, axes: tuple[int, ...]) -> Array:
    """The mean of (x - mean)^2.

    Of bfloat16 on TPU as the mean of x^2 less mean^2: both means are then of one pass, the end of the product that gave
    x. What cancels is, in float32, less than x was rounded by, up to a mean of a hundred deviations.
    """
    if x.dtype == jnp.bfloat16 and rules.runs_on_tpu():
        return jnp.maximum(jnp.mean(jnp.square(x32), axis=axes, keepdims=True) - jnp.square(mean), 0)
    return jnp.mean(jnp.square(x32 - mean), axis=axes, keepdims=True)


def _normalised_backward(
    axes: tuple[int, ...], eps: float, kept: tuple[Array, Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    """With n what is normalised and g the cotangent times the scale: (g - mean(g) - n mean(g n)) / deviation."""
    x, scale, mean, inverse = kept
    cotangent = cotangent.astype(jnp.float32)
    normalised, inward = (x.astype(jnp.float32) - mean) * inverse, cotangent * scale
    common = jnp.mean(inward, axis=axes, keepdims=True)
    along = jnp.mean(inward * normalised, axis=axes, keepdims=True)
    by_x = inverse * (inward - common - normalised * along)
    positions = tuple(range(x.ndim - 1))
    by_scale, by_bias = (jnp.sum(part, axis=positions) for part in (cotangent * normalised, cotangent))
    return by_x.astype(x.dtype), by_scale, by_bias


_normalised.defvjp(_normalised_forward, _normalised_backward)


class BatchNorm(Module):
    """(x - mean) / sqrt(variance + eps) * scale + bias for each channel (Ioffe and Szegedy, 2015, algorithms 1 and 2).

    In training mean and variance are those of the channel over the whole batch, on all devices; otherwise they are
    `running_mean` and `running_variance`, which follow those of the batches (`optim.optimizer.STATISTICS_RATE`). An
    example's output then depends on its batch, so a batch cannot be taken in microbatches.
    """

    def __init__(self, key: Key, size: int, *, dims: str = "d", eps: float = 1e-5):
        self.eps = eps
        self.scale = parameter(key, dims, (size,), initializers.ones)
        self.bias = parameter(key, dims, (size,), initializers.zeros)
        self.running_mean = statistic(dims, (size,), 0.0)
        self.running_variance = statistic(dims, (size,), 1.0)

    def __call__(self, x: Array, *, training: bool) -> Array:
        """x (b, y, x, size) -> the same shape and dtype; the arithmetic is float32."""
        x32, running_mean, running_variance = x.astype(jnp.float32), self.running_mean[...], self.running_variance[...]
        if training:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x32, axis=axes)
            variance = jnp.mean(jnp.square(x32 - mean), axis=axes)
            mean, variance = _followed(running_mean, mean), _followed(running_variance, variance)
        else:
            mean, variance = running_mean, running_variance
        inverse = jax.lax.rsqrt(variance + self.eps) * weight(self.scale, jnp.float32)
        return ((x32 - mean) * inverse + weight(self.bias, jnp.float32)).astype(x.dtype)


@jax.custom_vjp
def _followed(running: Array, seen: Array) -> Array:
    """`seen`, with the derivative of the identity; the gradient of `running` is running - seen, whatever the loss."""
    return seen


def _follow_forward(running: Array, seen: Array) -> tuple[Array, Array]:
    return seen, running - seen


def _follow_backward(distance: Array, gradient: Array) -> tuple[Array, Array]:
    return distance, gradient


_followed.defvjp(_follow_forward, _follow_backward)


def l2_normalise(x: Array) -> Array:
    """x / |x| over the last axis, in float32; a zero vector stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    squared_length = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared_length, SQUARED_LENGTH_FLOOR))
