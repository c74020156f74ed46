"""From pixels to patch tokens: one linear map of a patch, or a few small convolutions."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from mmjax.nn.linear import Linear
from mmjax.nn.mlp import ACTIVATIONS, Activation
from mmjax.nn.norm import LayerNorm
from mmjax.nn.parameter import parameter, weight
from mmjax.parallel import rules
from mmjax.types import Array, Key

NUM_COLOURS = 3
KERNEL_SIZE, STRIDE = 3, 2
"""Of each convolution of the convolutional stem (Xiao et al., 2021, sec. 4)."""


def patches_of(image: Array, patch_size: int) -> Array:
    """image (b, y, x, c) cut into squares, row by row -> (b, p, patch_size * patch_size * c); the rest is left out."""
    b, height, width, c = image.shape
    rows, columns = height // patch_size, width // patch_size
    image = image[:, : rows * patch_size, : columns * patch_size]
    cut = image.reshape(b, rows, patch_size, columns, patch_size, c, out_sharding=rules.spec("byoxoc"))
    squares = cut.transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(b, rows * columns, patch_size * patch_size * c, out_sharding=rules.spec("bpc"))


class PatchStem(nnx.Module):
    """A linear map of the pixels of each patch (Dosovitskiy et al., 2021, eq. 1)."""

    def __init__(self, key: Key, patch_size: int, width: int, *, bias: bool):
        self.patch_size = patch_size
        shape = (patch_size * patch_size * NUM_COLOURS, width)
        self.projection = Linear(key, "cd", shape, bias=bias, init=initializers.lecun_normal())

    def __call__(self, image: Array) -> Array:
        """image (b, y, x, 3), normalised -> (b, p, d)."""
        return self.projection(patches_of(image, self.patch_size))


class ConvStem(nnx.Module):
    """log2(patch_size) convolutions, each 3x3 of stride 2 with norm and activation, then a 1x1 to the width.

    Channels double at each convolution and end at the width. The paper (Xiao et al., 2021, "Early convolutions help
    transformers see better") has batch norm; a group norm of one group keeps an example independent of its batch, and
    learned as fast in short runs on the emoji (a layer norm over the channels alone did not).
    """

    def __init__(self, key: Key, patch_size: int, width: int, *, activation: Activation, norm_eps: float = 1e-6):
        num_convs = patch_size.bit_length() - 1
        channels = [NUM_COLOURS, *(max(width >> (num_convs - 1 - stage), 8) for stage in range(num_convs))]
        keys = jax.random.split(key, num_convs + 1)
        self.stages = nnx.List(
            ConvStage(keys[stage], channels[stage], channels[stage + 1], activation=activation, norm_eps=norm_eps)
            for stage in range(num_convs)
        )
        self.projection = Linear(keys[-1], "cd", (channels[-1], width), init=initializers.lecun_normal())

    def __call__(self, image: Array) -> Array:
        """image (b, y, x, 3), normalised -> (b, p, d)."""
        features = image
        for stage in self.stages:
            features = stage(features)
        b, y, x, c = features.shape
        return self.projection(features.reshape(b, y * x, c, out_sharding=rules.spec("bpc")))


class ConvStage(nnx.Module):
    """activation(norm(convolution)), halving both sides of the image."""

    def __init__(self, key: Key, num_inputs: int, num_outputs: int, *, activation: Activation, norm_eps: float):
        conv_key, norm_key = jax.random.split(key)
        shape = (KERNEL_SIZE, KERNEL_SIZE, num_inputs, num_outputs)
        self.activation: Activation = activation
        self.kernel = parameter(conv_key, "yxcz", shape, initializers.he_normal())
        self.norm = LayerNorm(norm_key, num_outputs, dims="z", eps=norm_eps, num_axes=3)

    def __call__(self, features: Array) -> Array:
        """features (b, y, x, c) -> (b, y/2, x/2, z)."""
        return ACTIVATIONS[self.activation](self.norm(convolve(features, weight(self.kernel, features.dtype))))


def convolve(features: Array, kernel: Array) -> Array:
    """The convolution of features (b, y, x, c) with a kernel (3, 3, c, z), stride 2, one pixel of zeros around.

    Pixels, of 3 channels, are multiplied as a matrix of windows: on CPU that takes a third of the time of the
    compiler's convolution, whose weight gradient is slow there. From 24 channels on the convolution is as fast.
    """
    if features.shape[-1] == NUM_COLOURS:
        flat = kernel.reshape(-1, kernel.shape[-1])
        return jnp.einsum("byxc,cz->byxz", windows(features), flat, out_sharding=rules.spec("byxz"))
    padding = ((1, 1), (1, 1))
    return jax.lax.conv_general_dilated(
        features, kernel, (STRIDE, STRIDE), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def windows(features: Array) -> Array:
    """What each output of the convolution sees: features (b, y, x, c) -> (b, y/2, x/2, 3 * 3 * c)."""
    _, height, width, _ = features.shape
    padded = jnp.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [(y, x) for y in range(KERNEL_SIZE) for x in range(KERNEL_SIZE)]
    return jnp.concatenate([padded[:, y : y + height : STRIDE, x : x + width : STRIDE] for y, x in shifts], axis=-1)
