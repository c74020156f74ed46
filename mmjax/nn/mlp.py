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


@_keeping_input
def gelu_tanh(x: Array) -> Array:
    """The tanh approximation of the same paper; SigLIP uses it."""
    return jax.nn.gelu(x, approximate=True)


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
