"""From pixels to patch tokens: one linear map of a patch, or a few small convolutions."""

from typing import Any

import jax
from flax import nnx
from jax.nn import initializers

from mmjax.nn.alignment import aligned
from mmjax.nn.convolution import NUM_COLOURS, ConvNorm, ConvUnit
from mmjax.nn.linear import Linear
from mmjax.nn.mlp import Activation
from mmjax.nn.module import Module
from mmjax.parallel import rules
from mmjax.types import Array, Key


def patches_of(image: Array, patch_size: int) -> Array:
    """image (b, y, x, c) cut into squares, row by row -> (b, p, patch_size * patch_size * c); the rest is left out."""
    b, height, width, c = image.shape
    rows, columns = height // patch_size, width // patch_size
    image = image[:, : rows * patch_size, : columns * patch_size]
    cut = image.reshape(b, rows, patch_size, columns, patch_size, c, out_sharding=rules.spec("byoxoc"))
    squares = cut.transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(b, rows * columns, patch_size * patch_size * c, out_sharding=rules.spec("bpc"))


class PatchStem(Module):
    """A linear map of the pixels of each patch (Dosovitskiy et al., 2021, eq. 1)."""

    def __init__(self, key: Key, patch_size: int, width: int, *, bias: bool):
        self.patch_size = patch_size
        shape = (patch_size * patch_size * NUM_COLOURS, width)
        self.projection = Linear(key, "cd", shape, bias=bias, init=initializers.lecun_normal())

    def __call__(self, image: Array, *, training: bool = False) -> Array:
        """image (b, y, x, 3), normalised -> (b, p, d), the same in training."""
        patches = patches_of(image, self.patch_size)
        return self.projection(aligned(patches)[0])[:, : patches.shape[1]]


class ConvStem(Module):
    """log2(patch_size) convolutions, each 3x3 of stride 2 with norm and activation, then a 1x1 to the width.

    After stage i come `num_residual[i]` convolutions of stride 1, added to what they see (the paper's larger stems have
    some, without the sum). Channels double at each halving and end at the width. The paper (Xiao et al., 2021, "Early
    convolutions help transformers see better") has the `norm` "batch", which also learns best in short runs on the
    emoji; "group", a group norm of one group, keeps an example independent of its batch.
    """

    def __init__(
        self,
        key: Key,
        patch_size: int,
        width: int,
        *,
        activation: Activation,
        norm: ConvNorm = "group",
        norm_eps: float = 1e-6,
        num_residual: tuple[int, ...] = (),
    ):
        num_convs = patch_size.bit_length() - 1
        num_residual = num_residual or (0,) * num_convs
        channels = [NUM_COLOURS, *(max(width >> (num_convs - 1 - stage), 8) for stage in range(num_convs))]
        keys = jax.random.split(key, num_convs + 1)
        self.stages = nnx.List(
            ConvStage(
                keys[stage],
                channels[stage],
                channels[stage + 1],
                activation=activation,
                norm=norm,
                norm_eps=norm_eps,
                num_residual=num_residual[stage],
            )
            for stage in range(num_convs)
        )
        self.projection = Linear(keys[-1], "cd", (channels[-1], width), init=initializers.lecun_normal())

    def __call__(self, image: Array, *, training: bool = False) -> Array:
        """image (b, y, x, 3), normalised -> (b, p, d); `training` decides the statistics of a batch norm."""
        features = image
        for stage in self.stages:
            features = stage(features, training=training)
        b, y, x, c = features.shape
        return self.projection(features.reshape(b, y * x, c, out_sharding=rules.spec("bpc")))


class ConvStage(Module):
    """y = f(x), which halves both sides of the image, then y + g(y) a few times; f and g are `ConvUnit`."""

    def __init__(
        self,
        key: Key,
        num_inputs: int,
        num_outputs: int,
        *,
        activation: Activation,
        norm: ConvNorm = "group",
        norm_eps: float = 1e-6,
        num_residual: int = 0,
    ):
        keys = jax.random.split(key, 1 + num_residual)
        # Kernels of 3x3 throughout (Xiao et al., 2021, sec. 4).
        settings: dict[str, Any] = {"kernel_size": 3, "activation": activation, "norm": norm, "norm_eps": norm_eps}
        self.down = ConvUnit(keys[0], num_inputs, num_outputs, stride=2, **settings)
        self.residual = nnx.List(ConvUnit(key, num_outputs, num_outputs, stride=1, **settings) for key in keys[1:])

    def __call__(self, features: Array, *, training: bool = False) -> Array:
        """features (b, y, x, c) -> (b, y/2, x/2, z)."""
        features = self.down(features, training=training)
        for unit in self.residual:
            features = features + unit(features, training=training)
        return features
