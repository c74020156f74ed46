"""The dual encoders of mmjax in plain PyTorch, for inference: no dropout, running averages in every batch norm.

Names of weights are the parameter paths of mmjax, with "." for "/" and one entry a layer. b: examples, t: tokens,
d: width of a tower, n: heads, h: width of a head, e: width of the shared space.

Part of mmjax, under the Apache License, Version 2.0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from .configuration_mmjax import MMJaxConfig

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
}
BATCH_NORM_EPS = 1e-5
BOTTLENECK_REDUCTION = 4
LONGEST_PERIOD = 10_000.0


class LayerNorm(nn.LayerNorm):
    """Over the last axis, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        normed = functional.layer_norm(
            x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps
        )
        return normed.to(x.dtype)


class GroupNorm(nn.GroupNorm):
    """Over channels, rows and columns together, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        normed = functional.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
        return normed.to(x.dtype)


class BatchNorm(nn.Module):
    """Of each channel by its running averages, in float32."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_channels: int, eps: float = BATCH_NORM_EPS):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean.float(), self.running_var.float()
        normed = functional.batch_norm(x.float(), mean, variance, self.weight.float(), self.bias.float(), eps=self.eps)
        return normed.to(x.dtype)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(h)) v for each head, then a projection; with `qk_norm`, q and k are normalised first."""

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool = False, norm_eps: float = 1e-6):
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.query_norm = LayerNorm(width // num_heads, norm_eps) if qk_norm else None
        self.key_norm = LayerNorm(width // num_heads, norm_eps) if qk_norm else None

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries from x (b, t, d), keys and values from source (b, s, d); `mask` (b, 1, t, s) is added to scores."""
        query, key, value = self._heads(self.query(x)), self._heads(self.key(source)), self._heads(self.value(source))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class MLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, width: int, mlp_dim: int, activation: str):
        super().__init__()
        self.up, self.down = nn.Linear(width, mlp_dim), nn.Linear(mlp_dim, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    """pre: x + f(norm(x)); post: norm(x + f(x)); with f the attention, then the feed-forward."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.attention_norm = LayerNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.num_heads, qk_norm=config.qk_norm, norm_eps=config.norm_eps)
        self.mlp_norm = LayerNorm(config.width, config.norm_eps)
        self.mlp = MLP(config.width, config.mlp_dim, config.activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.pre_norm:
            normed = self.attention_norm(x)
            x = x + self.attention(normed, normed, mask)
            return x + self.mlp(self.mlp_norm(x))
        x = self.attention_norm(x + self.attention(x, x, mask))
        return self.mlp_norm(x + self.mlp(x))


class MapPool(nn.Module):
    """A learned probe looks at all positions, then y + mlp(norm(y))."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, config.width))
        self.attention = Attention(config.width, config.num_heads)
        self.norm = LayerNorm(config.width, config.norm_eps)
        self.mlp = MLP(config.width, config.mlp_dim, config.activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (b, t, d) -> (b, d); `mask` (b, 1, 1, t) is added to the scores."""
        y = self.attention(self.probe.expand(x.shape[0], -1, -1), x, mask)
        return (y + self.mlp(self.norm(y)))[:, 0]


class ConcatPool(nn.Module):
    """A linear map of all positions side by side: x (b, t, d) -> (b, d)."""

    def __init__(self, num_tokens: int, width: int):
        super().__init__()
        self.projection = nn.Linear(num_tokens * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x.flatten(1))


class Pooler(nn.Linear):
    """tanh(W x + b)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x))


class PatchStem(nn.Module):
    """A linear map of each patch; rows and columns of pixels that fill none are left out."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        size = config.patch_size
        self.projection = nn.Conv2d(3, config.width, size, stride=size, bias=config.patch_bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (b, 3, y, x) -> (b, t, d), row by row."""
        return self.projection(pixels).flatten(2).transpose(1, 2)


class ConvUnit(nn.Conv2d):
    """activation(norm(convolution)), or norm(convolution) without one; padded as much as keeps the size at stride 1."""

    def __init__(
        self, num_inputs: int, num_outputs: int, size: int, stride: int, norm: nn.Module, activation: str | None
    ):
        super().__init__(num_inputs, num_outputs, size, stride=stride, padding=size // 2, bias=False)
        self.norm = norm
        self.activation = ACTIVATIONS[activation] if activation else None

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(super().forward(x))
        return normed if self.activation is None else self.activation(normed)


class ConvStage(nn.Module):
    """y = f(x), which halves both sides of the image, then y + g(y) a few times."""

    def __init__(self, num_inputs: int, num_outputs: int, num_residual: int, config: SimpleNamespace):
        super().__init__()
        self.down = _stem_unit(num_inputs, num_outputs, 2, config)
        self.residual = nn.ModuleList(_stem_unit(num_outputs, num_outputs, 1, config) for _ in range(num_residual))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        for unit in self.residual:
            x = x + unit(x)
        return x


def _stem_unit(num_inputs: int, num_outputs: int, stride: int, config: SimpleNamespace) -> ConvUnit:
    is_batch = config.stem_norm == "batch"
    norm = BatchNorm(num_outputs) if is_batch else GroupNorm(1, num_outputs, config.norm_eps)
    return ConvUnit(num_inputs, num_outputs, 3, stride, norm, config.activation)


class ConvStem(nn.Module):
    """log2(patch_size) stages, whose channels double up to the width, then a linear map."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        num_stages = config.patch_size.bit_length() - 1
        num_residual = config.stem_residual or (0,) * num_stages
        channels = [3, *(max(config.width >> (num_stages - 1 - stage), 8) for stage in range(num_stages))]
        sizes = zip(channels[:-1], channels[1:], num_residual, strict=True)
        self.stages = nn.ModuleList(ConvStage(*size, config) for size in sizes)
        self.projection = nn.Linear(channels[-1], config.width)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (b, 3, y, x) -> (b, t, d), row by row."""
        x = pixels
        for stage in self.stages:
            x = stage(x)
        return self.projection(x.flatten(2).transpose(1, 2))


class SincosPositions(nn.Module):
    """Fixed positions (t, d): a quarter each of sin x, cos x, sin y, cos y; zero for a class token."""

    table: Tensor

    def __init__(self, grid: tuple[int, int], width: int, num_prefix: int):
        super().__init__()
        self.grid, self.num_prefix = grid, num_prefix
        self.register_buffer("table", torch.zeros(num_prefix + math.prod(grid), width), persistent=False)
        self.fill()

    def fill(self) -> None:
        """Writes the table, which no checkpoint holds."""
        rows, columns = (torch.arange(size, dtype=torch.float64) for size in self.grid)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        quarter = self.table.shape[1] // 4
        frequencies = LONGEST_PERIOD ** -(torch.arange(quarter, dtype=torch.float64) / (quarter - 1))
        angles_y, angles_x = y.reshape(-1, 1) * frequencies, x.reshape(-1, 1) * frequencies
        table = torch.cat([angles_x.sin(), angles_x.cos(), angles_y.sin(), angles_y.cos()], dim=1)
        self.table.zero_()
        self.table[self.num_prefix :] = table.to(self.table)

    def forward(self) -> Tensor:
        return self.table


class ViT(nn.Module):
    """pool(norm(blocks(stem(pixels) + positions)))."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.config, self.width = config, config.width
        self.size = (config.image_size, config.image_width or config.image_size)
        grid = (self.size[0] // config.patch_size, self.size[1] // config.patch_size)
        num_prefix = 1 if config.pool == "cls" else 0
        num_tokens = num_prefix + math.prod(grid)
        self.stem = ConvStem(config) if config.stem == "conv" else PatchStem(config)
        self.class_token = nn.Parameter(torch.zeros(config.width)) if num_prefix else None
        self.positions: nn.Parameter | SincosPositions
        if config.position == "learned":
            self.positions = nn.Parameter(torch.zeros(num_tokens, config.width))
        else:
            self.positions = SincosPositions(grid, config.width, num_prefix)
        self.embedding_norm = LayerNorm(config.width, config.norm_eps) if config.embedding_norm else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_norm = LayerNorm(config.width, config.norm_eps) if config.final_norm else None
        self.pool = _image_pool(config, num_tokens)
        self.pooler = Pooler(config.width, config.width) if config.pooler else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens (b, t, d) and features (b, d) of pixels (b, 3, y, x)."""
        if pixels.shape[-2:] != self.size:
            raise ValueError(f"images of {tuple(pixels.shape[-2:])} pixels, where the model takes {self.size}")
        x = self.stem(pixels)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], 1, -1), x], dim=1)
        x = x + (self.positions() if isinstance(self.positions, SincosPositions) else self.positions)
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        for block in self.blocks:
            x = block(x)
        tokens = x if self.final_norm is None else self.final_norm(x)
        features = self._pool(tokens)
        return tokens, features if self.pooler is None else self.pooler(features)

    def _pool(self, tokens: Tensor) -> Tensor:
        if self.pool is not None:
            return self.pool(tokens)
        return tokens[:, 0] if self.config.pool == "cls" else tokens.mean(dim=1)


def _image_pool(config: SimpleNamespace, num_tokens: int) -> MapPool | ConcatPool | None:
    """The pool that has weights, if it is one."""
    match config.pool:
        case "map":
            return MapPool(config)
        case "concat":
            return ConcatPool(num_tokens, config.width)
    return None


class ResNet(nn.Module):
    """mean over positions of stages(max_pool(stem(pixels)))."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.width = config.stage_dims[-1]
        self.stem = ConvUnit(3, config.embedding_dim, 7, 2, BatchNorm(config.embedding_dim), config.activation)
        strides = [2 if config.downsample_in_first_stage else 1] + [2] * (len(config.depths) - 1)
        inputs = [config.embedding_dim, *config.stage_dims[:-1]]
        stages = zip(inputs, config.stage_dims, strides, config.depths, strict=True)
        self.stages = nn.ModuleList(ResNetStage(*stage, config) for stage in stages)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The positions of the last stage (b, t, d), row by row, and features (b, d) of pixels (b, 3, y, x)."""
        x = functional.max_pool2d(self.stem(pixels), 3, stride=2, padding=1)
        for stage in self.stages:
            x = stage(x)
        tokens = x.flatten(2).transpose(1, 2)
        return tokens, tokens.float().mean(dim=1).to(tokens.dtype)


class ResNetStage(nn.Module):
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


class ResidualLayer(nn.Module):
    """activation(f(x) + shortcut(x)), f with relu inside; the shortcut is the identity where the shape stays."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int, config: SimpleNamespace):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        *inner, last = _convolutions(num_inputs, num_outputs, stride, config)
        units = [_residual_unit(*shape, "relu") for shape in inner]
        self.units = nn.ModuleList([*units, _residual_unit(*last, None)])
        changes = stride != 1 or num_inputs != num_outputs
        self.shortcut = _residual_unit(num_inputs, num_outputs, 1, stride, None) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        branch = x
        for unit in self.units:
            branch = unit(branch)
        return self.activation(branch + (x if self.shortcut is None else self.shortcut(x)))


def _convolutions(
    num_inputs: int, num_outputs: int, stride: int, config: SimpleNamespace
) -> tuple[tuple[int, int, int, int], ...]:
    """Inputs, outputs, kernel size and stride of each convolution of a residual layer."""
    if config.layer == "basic":
        return (num_inputs, num_outputs, 3, stride), (num_outputs, num_outputs, 3, 1)
    inside = num_outputs // BOTTLENECK_REDUCTION
    first, second = (stride, 1) if config.downsample_in_bottleneck else (1, stride)
    return (num_inputs, inside, 1, first), (inside, inside, 3, second), (inside, num_outputs, 1, 1)


def _residual_unit(num_inputs: int, num_outputs: int, size: int, stride: int, activation: str | None) -> ConvUnit:
    return ConvUnit(num_inputs, num_outputs, size, stride, BatchNorm(num_outputs), activation)


class TextTransformer(nn.Module):
    """pool(norm(blocks(tokens + positions)))."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.config, self.width = config, config.width
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.zeros(config.context_len, config.width))
        num_types = config.num_token_types
        self.token_types = nn.Parameter(torch.zeros(num_types, config.width)) if num_types else None
        self.embedding_norm = LayerNorm(config.width, config.norm_eps) if config.embedding_norm else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_norm = LayerNorm(config.width, config.norm_eps) if config.final_norm else None
        self.pool = MapPool(config) if config.pool == "map" else None
        self.pooler = Pooler(config.width, config.width) if config.pooler else None

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens (b, t, d) and features (b, d) of ids (b, t); `mask` (b, t) is True for real tokens."""
        length = ids.shape[1]
        if length > self.config.context_len:
            raise ValueError(f"texts of {length} tokens, where the model takes at most {self.config.context_len}")
        x = self.tokens(ids) + self.positions[:length]
        x = x if self.token_types is None else x + self.token_types[0]
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        seen = self._seen(mask)
        scores = None if seen is None else added_to_scores(seen, x.dtype)
        for block in self.blocks:
            x = block(x, scores)
        tokens = x if self.final_norm is None else self.final_norm(x)
        features = self._pool(tokens, ids, mask)
        return tokens, features if self.pooler is None else self.pooler(features)

    def _seen(self, mask: Tensor) -> Tensor | None:
        """Which query sees which key, bool and broadcast to (b, 1, t, s); None where all see all."""
        visible = mask[:, None, None, :] if self.config.use_mask else None
        if not self.config.causal:
            return visible
        length = mask.shape[1]
        causal = torch.ones(1, 1, length, length, dtype=torch.bool, device=mask.device).tril()
        return causal if visible is None else causal & visible

    def _pool(self, tokens: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        if self.pool is not None:
            visible = added_to_scores(mask[:, None, None, :], tokens.dtype) if self.config.use_mask else None
            return self.pool(tokens, visible)
        match self.config.pool:
            case "eot":
                return tokens[torch.arange(ids.shape[0], device=ids.device), self._end_of_text(ids)]
            case "last":
                return tokens[:, -1]
            case "first":
                return tokens[:, 0]
        total = torch.where(mask[:, :, None], tokens.float(), 0).sum(dim=1)
        return (total / mask.sum(dim=1, keepdim=True).clamp(min=1)).to(tokens.dtype)

    def _end_of_text(self, ids: Tensor) -> Tensor:
        """The first place (b,) of `eos_id`, or of the largest id where there is none."""
        eos_id = self.config.eos_id
        return (ids if eos_id is None else (ids == eos_id).int()).argmax(dim=1)


def added_to_scores(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key is seen, else so low that it gets no weight, and finite: a row that sees no key stays finite too.

    Half of the lowest number leaves room for the score that it is added to. Such a row looks at all keys alike, but in
    float16, whose lowest number does not drown the scores, as if all were seen.
    """
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min / 2)


@dataclass
class DualEncoderOutput(ModelOutput):
    """Similarities float32 (images, texts) and their transpose, and the embeddings (b, e), of length 1."""

    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


IMAGE_TOWERS: dict[str, type[ViT] | type[ResNet]] = {"vit": ViT, "resnet": ResNet}


class MMJaxDualEncoder(PreTrainedModel):
    """x = normalise(P image_tower(image)), y = normalise(Q text_tower(text)), logits = exp(logit_scale) x y + bias."""

    config_class = MMJaxConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: MMJaxConfig):
        super().__init__(config)
        image, text = SimpleNamespace(**config.image_config), SimpleNamespace(**config.text_config)
        self.image = IMAGE_TOWERS[image.kind](image)
        self.text = TextTransformer(text)
        self.image_projection = _projection(config.image_projection, self.image.width, config.embed_dim)
        self.text_projection = _projection(config.text_projection, self.text.width, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.logit_bias = nn.Parameter(torch.zeros(())) if config.has_logit_bias else None
        self.post_init()

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """`pooler_output` (b, e), of any length, and the tower's `last_hidden_state`, of pixels (b, 3, y, x)."""
        tokens, features = self._image(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=features)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutputWithPooling:
        """`pooler_output` (b, e), of any length, and the tower's `last_hidden_state`, of ids (b, t).

        `attention_mask` (b, t) is 1 for real tokens, as all are by default; a tower that was trained without one
        ignores it.
        """
        tokens, features = self._text(input_ids, attention_mask)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=features)

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> DualEncoderOutput:
        """Every image against every text."""
        image_embeds = normalised(self._image(pixel_values)[1])
        text_embeds = normalised(self._text(input_ids, attention_mask)[1])
        logits = image_embeds @ text_embeds.T * self.logit_scale.float().exp()
        logits = logits if self.logit_bias is None else logits + self.logit_bias.float()
        return DualEncoderOutput(logits, logits.T, image_embeds, text_embeds)

    def _image(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        tokens, features = self.image(pixel_values.to(self.dtype))
        return tokens, _projected(features, self.image_projection)

    def _text(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        tokens, features = self.text(input_ids, mask.bool())
        return tokens, _projected(features, self.text_projection)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SincosPositions):
            module.fill()


def _projection(kind: str, width: int, embed_dim: int) -> nn.Linear | None:
    return None if kind == "none" else nn.Linear(width, embed_dim, bias=kind == "biased")


def _projected(features: Tensor, projection: nn.Linear | None) -> Tensor:
    return features if projection is None else projection(features)


def normalised(features: Tensor) -> Tensor:
    """features (b, e) at length 1, float32."""
    return functional.normalize(features.float(), dim=-1)
