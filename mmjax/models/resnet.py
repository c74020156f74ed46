"""ResNet (He et al., 2016), by default version 1.5: a bottleneck halves the image in its 3x3 convolution."""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from mmjax.errors import UserError
from mmjax.models.tower import ImageTower, ImageTowerConfig, normalised
from mmjax.nn.convolution import NUM_COLOURS, ConvUnit, max_pool
from mmjax.nn.mlp import ACTIVATIONS, Activation
from mmjax.nn.module import Module
from mmjax.parallel import rules
from mmjax.types import Array, Key

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of the pixels that published ResNets were trained on (released code of Torch's ResNets and of Hugging Face)."""

STEM_SIZE = 7
"""Side of the first kernel (He et al., 2016, table 1)."""
REDUCTION = 4
"""Channels of a bottleneck's output for each one inside it (He et al., 2016, table 1)."""


@dataclass(frozen=True)
class ResNetConfig(ImageTowerConfig):
    """An image tower of residual convolutions; the defaults are ResNet-50.

    embedding_dim: channels after the first convolution.
    stage_dims, depths: channels after each stage, and its layers. Each stage but the first halves the image.
    layer: "basic", two 3x3 convolutions; "bottleneck", 1x1, 3x3 and 1x1, with a quarter of the channels inside.
    downsample_in_first_stage: the first stage halves the image too.
    downsample_in_bottleneck: a bottleneck halves the image in its first convolution, as the paper has it, and not in
        its 3x3 one, which is more exact ("version 1.5").
    activation: after the first convolution and after each layer's sum; inside a layer it is always ReLU, as in Hugging
        Face's class, whose `hidden_act` does not reach there.
    """

    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    image_std: tuple[float, float, float] = IMAGENET_STD
    embedding_dim: int = 64
    stage_dims: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer: Literal["basic", "bottleneck"] = "bottleneck"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        if not self.stage_dims or len(self.stage_dims) != len(self.depths) or min(self.depths) < 1:
            raise UserError(
                f"stage_dims {self.stage_dims} and depths {self.depths} must have one number for each stage, each "
                "depth at least 1: correct either"
            )
        if self.layer == "bottleneck" and any(dim % REDUCTION for dim in self.stage_dims):
            raise UserError(f"layer 'bottleneck' needs stage_dims that {REDUCTION} divides, not {self.stage_dims}")

    @property
    def width(self) -> int:
        return self.stage_dims[-1]

    @property
    def needs_whole_batch(self) -> bool:
        return True

    @property
    def num_positions(self) -> int:
        """Of the last stage: what is left of the image after its convolutions, each rounded up."""
        # The stem and the pooling behind it halve it too.
        return math.prod(
            functools.reduce(lambda n, by: -(-n // by), (2, 2, *self.strides()), side) for side in self.image_shape
        )

    def build(self, key: Key) -> "ResNet":
        return ResNet(self, key)

    def has_shortcut(self, stage: int, layer: int) -> bool:
        """Whether a layer changes the shape, so that what passes it by is a convolution and not the identity."""
        if layer:
            return False
        num_inputs = self.stage_dims[stage - 1] if stage else self.embedding_dim
        return num_inputs != self.stage_dims[stage] or stage > 0 or self.downsample_in_first_stage

    def strides(self) -> Iterator[int]:
        """By how much each stage divides the sides of the image."""
        return itertools.chain([2 if self.downsample_in_first_stage else 1], itertools.repeat(2, len(self.depths) - 1))


class ResNet(ImageTower):
    """mean over positions of stages(max_pool(stem(image))), with batch norms."""

    def __init__(self, config: ResNetConfig, key: Key):
        stem_key, *keys = jax.random.split(key, 1 + len(config.depths))
        self.config = config
        self.stem = ConvUnit(
            stem_key,
            NUM_COLOURS,
            config.embedding_dim,
            kernel_size=STEM_SIZE,
            stride=2,
            activation=config.activation,
        )
        dims = itertools.pairwise((config.embedding_dim, *config.stage_dims))
        stages = zip(keys, dims, config.strides(), config.depths, strict=True)
        self.stages = nnx.List(
            Stage(key, config, *inputs_outputs, stride=stride, depth=depth)
            for key, inputs_outputs, stride, depth in stages
        )

    def __call__(self, image: Array, key: Key | None = None) -> tuple[Array, dict[str, Array]]:
        """See `ImageTower`; `tokens` are the positions of the last stage, row by row."""
        training = key is not None
        grid = max_pool(self.stem(normalised(image, self.config), training=training))
        for stage in self.stages:
            grid = stage(grid, training=training)
        b, y, x, d = grid.shape
        tokens = grid.reshape(b, y * x, d, out_sharding=rules.spec("bpd"))
        features = jnp.mean(tokens, axis=1, dtype=jnp.float32).astype(tokens.dtype)
        return features, {"tokens": tokens, "features": features}


class Stage(Module):
    """Layers one after the other, of which the first changes the shape."""

    def __init__(self, key: Key, config: ResNetConfig, num_inputs: int, num_outputs: int, *, stride: int, depth: int):
        first, *rest = jax.random.split(key, depth)
        self.layers = nnx.List(
            [
                ResidualLayer(first, config, num_inputs, num_outputs, stride),
                *(ResidualLayer(key, config, num_outputs, num_outputs, 1) for key in rest),
            ]
        )

    def __call__(self, grid: Array, *, training: bool) -> Array:
        """grid (b, y, x, c) -> (b, y/stride, x/stride, z), rounded up."""
        for layer in self.layers:
            grid = layer(grid, training=training)
        return grid


class ResidualLayer(Module):
    """activation(f(x) + shortcut(x)), where f is two or three `ConvUnit`, the last of them without activation.

    The shortcut is the identity where the shape stays as it is, else a 1x1 convolution with a batch norm.
    """

    def __init__(self, key: Key, config: ResNetConfig, num_inputs: int, num_outputs: int, stride: int):
        *keys, shortcut_key = jax.random.split(key, 4)
        self.activation: Activation = config.activation
        shapes = list(_shapes(config, num_inputs, num_outputs, stride))
        self.units = nnx.List(
            ConvUnit(
                keys[index],
                inputs,
                outputs,
                kernel_size=size,
                stride=stride,
                activation=None if index == len(shapes) - 1 else "relu",
            )
            for index, (inputs, outputs, size, stride) in enumerate(shapes)
        )
        if num_inputs == num_outputs and stride == 1:
            self.shortcut = None
        else:
            self.shortcut = ConvUnit(
                shortcut_key, num_inputs, num_outputs, kernel_size=1, stride=stride, activation=None
            )

    def __call__(self, grid: Array, *, training: bool) -> Array:
        """grid (b, y, x, c) -> (b, y/stride, x/stride, z), rounded up."""
        branch = grid
        for unit in self.units:
            branch = unit(branch, training=training)
        kept = grid if self.shortcut is None else self.shortcut(grid, training=training)
        return ACTIVATIONS[self.activation](branch + kept)


def _shapes(
    config: ResNetConfig, num_inputs: int, num_outputs: int, stride: int
) -> tuple[tuple[int, int, int, int], ...]:
    """Inputs, outputs, kernel size and stride of each convolution of a layer."""
    if config.layer == "basic":
        return (num_inputs, num_outputs, 3, stride), (num_outputs, num_outputs, 3, 1)
    inside = num_outputs // REDUCTION
    first, second = (stride, 1) if config.downsample_in_bottleneck else (1, stride)
    return (num_inputs, inside, 1, first), (inside, inside, 3, second), (inside, num_outputs, 1, 1)
