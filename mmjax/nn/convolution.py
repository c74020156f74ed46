"""Convolutions with their norm and activation, and the pooling between them."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn import initializers

from mmjax.nn.mlp import ACTIVATIONS, Activation
from mmjax.nn.module import Module
from mmjax.nn.norm import BatchNorm, LayerNorm
from mmjax.nn.parameter import parameter, weight
from mmjax.parallel import rules
from mmjax.types import Array, Key

ConvNorm = Literal["group", "batch"]
NUM_COLOURS = 3
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class ConvUnit(Module):
    """activation(norm(convolution)), or norm(convolution) without one; a batch norm has its own eps, not `norm_eps`."""

    def __init__(
        self,
        key: Key,
        num_inputs: int,
        num_outputs: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        activation: Activation | None,
        norm: ConvNorm = "batch",
        norm_eps: float = 1e-6,
    ):
        conv_key, norm_key = jax.random.split(key)
        shape = (kernel_size, kernel_size, num_inputs, num_outputs)
        self.stride = stride
        self.activation: Activation | None = activation
        self.kernel = parameter(conv_key, "yxcz", shape, initializers.he_normal())
        self.norm: LayerNorm | BatchNorm
        if norm == "group":
            self.norm = LayerNorm(norm_key, num_outputs, dims="z", eps=norm_eps, num_axes=3)
        else:
            self.norm = BatchNorm(norm_key, num_outputs, dims="z")

    def __call__(self, features: Array, *, training: bool = False) -> Array:
        """features (b, y, x, c) -> (b, y/stride, x/stride, z), rounded up."""
        convolved = convolve(features, weight(self.kernel, features.dtype), self.stride)
        mode = {"training": training} if isinstance(self.norm, BatchNorm) else {}
        normalised = self.norm(convolved, **mode)
        return normalised if self.activation is None else ACTIVATIONS[self.activation](normalised)


def convolve(features: Array, kernel: Array, stride: int) -> Array:
    """The convolution of features (b, y, x, c) with a square kernel (odd, odd, c, z), and zeros around as PyTorch has
    them with padding size // 2.

    Pixels, of 3 channels, are multiplied by a 3x3 kernel as a matrix of windows: on CPU that takes a third of the time
    of the compiler's convolution, whose weight gradient is slow there. From 24 channels on the convolution is as fast,
    and the windows of a larger kernel take too much memory.
    """
    if kernel.shape[:3] == (3, 3, NUM_COLOURS):
        flat = kernel.reshape(-1, kernel.shape[-1])
        return jnp.einsum("byxc,cz->byxz", windows(features, stride), flat, out_sharding=rules.spec("byxz"))
    padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(features, kernel, (stride, stride), padding, dimension_numbers=DIMENSIONS)


def windows(features: Array, stride: int, size: int = 3) -> Array:
    """What each output of the convolution sees: features (b, y, x, c) -> (b, y/stride, x/stride, size * size * c)."""
    _, height, width, _ = features.shape
    around = (size // 2, size // 2)
    padded = jnp.pad(features, ((0, 0), around, around, (0, 0)))
    shifts = [(y, x) for y in range(size) for x in range(size)]
    return jnp.concatenate([padded[:, y : y + height : stride, x : x + width : stride] for y, x in shifts], axis=-1)


def max_pool(features: Array) -> Array:
    """The largest of each 3x3 window of features (b, y, x, c), one every 2 pixels -> (b, y/2, x/2, c), rounded up."""
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(features, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)
