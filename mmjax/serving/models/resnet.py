"""ResNet, with running averages in every batch norm."""

import itertools
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmjax.serving.models.layers import ACTIVATIONS

BATCH_NORM_EPS = 1e-5
STEM_SIZE = 7
REDUCTION = 4
"""Channels of a bottleneck's output for each one inside it."""

Shape = tuple[int, int, int, int]
"""Inputs, outputs, kernel size and stride of a convolution."""


class BatchNorm(nn.Module):
    """Of each channel by its running averages, in float32."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        statistics = self.running_mean.float(), self.running_var.float()
        affine = self.weight.float(), self.bias.float()
        return functional.batch_norm(x.float(), *statistics, *affine, eps=BATCH_NORM_EPS).to(x.dtype)


class ConvUnit(nn.Conv2d):
    """activation(norm(convolution)), or norm(convolution) without one; padded as much as keeps the size at stride 1."""

    def __init__(self, shape: Shape, activation: str | None):
        num_inputs, num_outputs, size, stride = shape
        super().__init__(num_inputs, num_outputs, size, stride=stride, padding=size // 2, bias=False)
        self.norm = BatchNorm(num_outputs)
        self.activation = ACTIVATIONS[activation] if activation else None

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(super().forward(x))
        return normed if self.activation is None else self.activation(normed)


class ResidualLayer(nn.Module):
    """activation(f(x) + shortcut(x)), f with relu inside; the shortcut is the identity where the shape stays."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int, config: SimpleNamespace):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        *inner, last = _shapes(num_inputs, num_outputs, stride, config)
        self.units = nn.ModuleList([*(ConvUnit(shape, "relu") for shape in inner), ConvUnit(last, None)])
        changes = stride != 1 or num_inputs != num_outputs
        self.shortcut = ConvUnit((num_inputs, num_outputs, 1, stride), None) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        branch = x
        for unit in self.units:
            branch = unit(branch)
        return self.activation(branch + (x if self.shortcut is None else self.shortcut(x)))


def _shapes(num_inputs: int, num_outputs: int, stride: int, config: SimpleNamespace) -> tuple[Shape, ...]:
    """Of each convolution of a layer."""
    if config.layer == "basic":
        return (num_inputs, num_outputs, 3, stride), (num_outputs, num_outputs, 3, 1)
    inside = num_outputs // REDUCTION
    first, second = (stride, 1) if config.downsample_in_bottleneck else (1, stride)
    return (num_inputs, inside, 1, first), (inside, inside, 3, second), (inside, num_outputs, 1, 1)


class Stage(nn.Module):
    """Layers one after the other, of which the first changes the shape."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int, depth: int, config: SimpleNamespace):
        super().__init__()
        first = ResidualLayer(num_inputs, num_outputs, stride, config)
        rest = (ResidualLayer(num_outputs, num_outputs, 1, config) for _ in range(depth - 1))
        self.layers = nn.ModuleList([first, *rest])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class ResNet(nn.Module):
    """stages(max_pool(stem(pixels)))."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.stem = ConvUnit((3, config.embedding_dim, STEM_SIZE, 2), config.activation)
        dims = itertools.pairwise((config.embedding_dim, *config.stage_dims))
        strides = [2 if config.downsample_in_first_stage else 1] + [2] * (len(config.depths) - 1)
        self.stages = nn.ModuleList(
            Stage(num_inputs, num_outputs, stride, depth, config)
            for (num_inputs, num_outputs), stride, depth in zip(dims, strides, config.depths, strict=True)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (b, 3, y, x), normalised -> the positions of the last stage (b, p, c), row by row."""
        x = functional.max_pool2d(self.stem(pixels), 3, stride=2, padding=1)
        for stage in self.stages:
            x = stage(x)
        return x.flatten(2).transpose(1, 2)
