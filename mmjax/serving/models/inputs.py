"""What the two streams begin with: words, and regions, patches or positions of a convolutional network."""

import functools
import itertools
import math
from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from mmjax.serving.models.layers import LayerNorm
from mmjax.serving.models.resnet import ResNet

LOCATION_DIMS = {"none": 0, "box": 4, "area": 5, "size": 7}
Batch = Mapping[str, Tensor]
ImageTokens = tuple[Tensor, Tensor | None]
"""Tokens (b, p, d), and their mask bool (b, p), True for those that may be seen; None hides nothing."""


def zeros(*shape: int) -> nn.Parameter:
    """A parameter that is loaded."""
    return nn.Parameter(torch.zeros(shape))


class TextInput(nn.Module):
    """norm(token + position + type)."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = zeros(config.context_len, config.width)
        self.token_types = zeros(config.num_token_types, config.width)
        self.norm = LayerNorm(config.width, config.norm_eps)

    def forward(self, text_ids: Tensor, token_types: Tensor | None = None) -> Tensor:
        """text_ids int (b, t), token_types int (b, t) or None for 0 everywhere -> (b, t, d).

        Raises:
            ValueError: the texts are longer than `context_len`.
        """
        length = text_ids.shape[1]
        if length > self.config.context_len:
            raise ValueError(f"texts of {length} tokens, where the model takes at most {self.config.context_len}")
        types = self.token_types[0] if token_types is None else self.token_types[token_types]
        return self.norm(self.tokens(text_ids) + self.positions[:length] + types)


class RegionInput(nn.Module):
    """norm(features W_f + location W_l + type), with what the config adds or leaves out."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        width, eps = config.width, config.norm_eps
        location_dim = LOCATION_DIMS[config.location]
        self.config = config
        self.features = nn.Linear(config.feature_dim, width)
        self.location = nn.Linear(location_dim, width) if location_dim else None
        self.features_norm = LayerNorm(width, eps) if config.part_norms else None
        self.location_norm = LayerNorm(width, eps) if config.part_norms and location_dim else None
        self.token_types = zeros(config.num_token_types, width) if config.token_type == "own" else None
        self.positions = zeros(config.num_positions, width) if config.num_positions else None
        self.norm = LayerNorm(width, eps) if config.norm == "own" else None
        self.mask_token = zeros(config.feature_dim) if config.mask_token else None

    def forward(self, batch: Batch, text: TextInput, masked: Tensor | None = None) -> ImageTokens:
        """`region_features` (b, p, c), `region_boxes` (b, p, 4), `region_mask` bool (b, p) -> tokens and mask."""
        dtype, mask = text.positions.dtype, batch["region_mask"]
        features = self._masked(batch["region_features"].to(dtype), mask, masked)
        location = location_of(batch["region_boxes"], self.config.location).to(dtype)
        if self.config.whole_image:
            features, location, mask = _with_whole_image(features, location, mask)
        x = self._parts(features, location)
        for row in self._constants(text):
            x = x + row
        norm = text.norm if self.config.norm == "text" else self.norm
        return x if norm is None else norm(x), mask

    def _masked(self, features: Tensor, mask: Tensor, masked: Tensor | None) -> Tensor:
        features = features.masked_fill(~mask[..., None], 0)
        return features if masked is None else _hidden(features, masked, self.mask_token)

    def _parts(self, features: Tensor, location: Tensor) -> Tensor:
        x = self.features(features)
        x = x if self.features_norm is None else self.features_norm(x)
        if self.location is None:
            return x
        y = self.location(location)
        y = y if self.location_norm is None else self.location_norm(y)
        return (x + y) / 2 if self.config.mean else x + y

    def _constants(self, text: TextInput) -> list[Tensor]:
        """What is the same for all regions, each (d,)."""
        rows = [text.token_types[1]] if self.config.token_type == "text" else []
        rows += [self.token_types[1]] if self.token_types is not None else []
        return rows + ([self.positions[0]] if self.positions is not None else [])


def location_of(boxes: Tensor, kind: str) -> Tensor:
    """boxes (b, p, 4), each left, top, right, bottom as fractions of the image -> the numbers of that kind (b, p, ...).

    "none" and "box": the same; "area": the fraction that it covers too; "size": width, height and their product too.
    """
    left, top, right, bottom = boxes.unbind(-1)
    width, height = right - left, bottom - top
    more = {"area": [width * height], "size": [width, height, width * height]}.get(kind, [])
    return torch.cat([boxes, torch.stack(more, dim=-1)], dim=-1) if more else boxes


def _with_whole_image(features: Tensor, location: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same with a region in front: the mean of features, and the location of all that there is."""
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean = features.sum(dim=1) / count
    numbers = location.new_tensor([0, 0, *[1] * (location.shape[-1] - 2)])
    return (
        torch.cat([mean[:, None], features], dim=1),
        torch.cat([numbers.expand(len(location), 1, -1), location], dim=1),
        torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1),
    )


def _hidden(x: Tensor, masked: Tensor, token: Tensor | None) -> Tensor:
    """x (b, p, d) with `token` (d,), or zeros, where `masked` (b, p) is True."""
    stands_in = torch.zeros((), dtype=x.dtype, device=x.device) if token is None else token
    return torch.where(masked[..., None], stands_in, x)


class PatchStem(nn.Module):
    """A linear map of the pixels of each patch."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        self.projection = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (b, 3, y, x) -> (b, p, d), row by row."""
        return self.projection(pixels).flatten(2).transpose(1, 2)


class PatchInput(nn.Module):
    """[class; patches W + b] + positions."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.size = _size(config)
        num_patches = math.prod(side // config.patch_size for side in self.size)
        self.stem = PatchStem(config.patch_size, config.width)
        self.class_token = zeros(config.width) if config.class_token else None
        self.positions = zeros(num_patches + config.class_token, config.width)
        self.norm = LayerNorm(config.width, config.norm_eps) if config.norm else None
        self.mask_token = zeros(config.width) if config.mask_token else None

    def forward(self, batch: Batch, text: TextInput, masked: Tensor | None = None) -> ImageTokens:
        """`image` (b, 3, y, x), normalised -> tokens (b, p, d), the class token first and never masked."""
        x = self.stem(_pixels(batch, self.size).to(text.positions.dtype))
        x = x if masked is None else _hidden(x, masked, self.mask_token)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        x = x + self.positions
        return x if self.norm is None else self.norm(x), None


class GridInput(nn.Module):
    """norm(positions of the network W + b + place), the places learned."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        tower = config.tower
        self.size = _size(tower)
        # The stem and the pooling behind it halve the image, and so does each stage but perhaps the first.
        halvings = 2 + tower.downsample_in_first_stage + len(tower.depths) - 1
        num_positions = math.prod(_halved(side, halvings) for side in self.size)
        self.tower = ResNet(tower)
        self.projection = nn.Linear(tower.stage_dims[-1], config.width)
        self.positions = zeros(num_positions, config.width)
        self.norm = LayerNorm(config.width, config.norm_eps)
        self.mask_token = zeros(config.width) if config.mask_token else None

    def forward(self, batch: Batch, text: TextInput, masked: Tensor | None = None) -> ImageTokens:
        """`image` (b, 3, y, x), normalised -> tokens (b, p, d), one a position."""
        x = self.projection(self.tower(_pixels(batch, self.size).to(text.positions.dtype)))
        x = x if masked is None else _hidden(x, masked, self.mask_token)
        return self.norm(x + self.positions), None


def _size(config: SimpleNamespace) -> tuple[int, int]:
    """Rows and columns of pixels."""
    return config.image_size, config.image_width or config.image_size


def _halved(side: int, times: int) -> int:
    """Rounded up each time."""
    return functools.reduce(lambda n, _: -(-n // 2), itertools.repeat(None, times), side)


def _pixels(batch: Batch, size: tuple[int, int]) -> Tensor:
    """The images of a batch.

    Raises:
        ValueError: they have another size.
    """
    pixels = batch["image"]
    if tuple(pixels.shape[-2:]) != size:
        raise ValueError(f"images of {tuple(pixels.shape[-2:])} pixels, where the model takes {size}")
    return pixels


ImageInput = RegionInput | PatchInput | GridInput
IMAGE_INPUTS: dict[str, type[RegionInput] | type[PatchInput] | type[GridInput]] = {
    "RegionInputConfig": RegionInput,
    "PatchInputConfig": PatchInput,
    "GridInputConfig": GridInput,
}
