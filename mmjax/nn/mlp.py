"""The feed-forward layer and the activations it may use."""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from mmjax.nn.linear import Linear
from mmjax.nn.module import Module
from mmjax.nn.parameter import Initializer
from mmjax.types import Array, Key

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu"]


SLOPE, CUBIC = math.sqrt(2 / math.pi), 0.044715
"""Of the tanh approximation: tanh(SLOPE (x + CUBIC x^3))."""


def _keeping_input(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """`function`, of which x alone is kept for the gradient, in its own dtype: the rest is computed again.

    Without it a scan over layers keeps every intermediate array of the widest part of a layer.
    """
    kept = jax.custom_vjp(function)
    kept.defvjp(lambda x: (function(x), x), lambda x, cotangent: jax.vjp(function, x)[1](cotangent))
    return functools.update_wrapper(kept, function)


@_keeping_input
def gelu(x: Array) -> Array:
    """x Phi(x), exact (Hendrycks & Gimpel, 2016), in float32.

    Phi is by erf as in PyTorch, to 1e-6 absolute: the erfc of `jax.nn.gelu`, which also has the digits of tails that
    are as good as 0, takes 2.7 times as long on CPU.
    """
    wide = x.astype(jnp.float32)
    return (wide * (0.5 + 0.5 * jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


@jax.custom_vjp
def gelu_tanh(x: Array) -> Array:
    """The tanh approximation of the same paper, in float32; SigLIP uses it."""
    wide = x.astype(jnp.float32)
    return (wide * (0.5 + 0.5 * _tanh_of_cubic(wide))).astype(x.dtype)


def _tanh_of_cubic(x: Array) -> Array:
    return jnp.tanh(x * (SLOPE + SLOPE * CUBIC * jnp.square(x)))


def _gelu_tanh_forward(x: Array) -> tuple[Array, Array]:
    return gelu_tanh(x), x


def _gelu_tanh_backward(x: Array, cotangent: Array) -> tuple[Array]:
    """By its formula, which has fewer operations than what is derived of each of them: it stands in the products of
    the widest part of a layer."""
    wide = x.astype(jnp.float32)
    tanh = _tanh_of_cubic(wide)
    by_tanh = 0.5 * wide * (1 - jnp.square(tanh))
    by_x = 0.5 + 0.5 * tanh + by_tanh * (SLOPE + 3 * SLOPE * CUBIC * jnp.square(wide))
    return ((cotangent.astype(jnp.float32) * by_x).astype(x.dtype),)


gelu_tanh.defvjp(_gelu_tanh_forward, _gelu_tanh_backward)


@_keeping_input
def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x), the sigmoid approximation of the same paper; OpenAI's CLIP uses it."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
}


class MLP(Module):
    """activation(x W_up + b) W_down + b, position by position (Vaswani et al., 2017, eq. 2)."""

    def __init__(self, key: Key, width: int, mlp_dim: int, activation: Activation, init: Initializer | None = None):
        up_key, down_key = jax.random.split(key)
        self.activation: Activation = activation
        self.up = Linear(up_key, "df", (width, mlp_dim), init=init)
        self.down = Linear(down_key, "fd", (mlp_dim, width), init=init)

    def __call__(self, x: Array) -> Array:
        """x (b, t, d) -> (b, t, d)."""
        return self.down(ACTIVATIONS[self.activation](self.up(x)))
