"""Vision Transformer (Dosovitskiy et al., 2021), with the choices of CLIP, SigLIP and early convolutions."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from mmjax.errors import UserError
from mmjax.models.tower import ImageTower, ImageTowerConfig, normalised
from mmjax.nn import positions, stack
from mmjax.nn.alignment import aligned, key_mask
from mmjax.nn.block import BlockConfig
from mmjax.nn.convolution import ConvNorm
from mmjax.nn.dropout import drop_patches, dropout, split
from mmjax.nn.linear import Linear
from mmjax.nn.mlp import Activation
from mmjax.nn.norm import LayerNorm
from mmjax.nn.parameter import parameter, weight
from mmjax.nn.pooling import ConcatPool, MapPool, take_position
from mmjax.nn.stack import Remat, StackConfig
from mmjax.nn.stem import ConvStem, PatchStem
from mmjax.parallel import rules
from mmjax.types import Array, Key


@dataclass(frozen=True)
class ViTConfig(ImageTowerConfig):
    """An image tower of patches.

    patch_size: in pixels. Where the patches do not fill the image, its last rows and columns are left out, as in SigLIP
        So400m/14-384.
    position: "learned", one row a token; "sincos2d", fixed.
    position_stddev: of the initial learned rows; None takes width ** -0.5, which is small beside a patch's embedding.
        At about 1 a short run tells the places of a few large patches apart from its first step.
    pool: "cls" adds a class token and takes it; "mean" averages the patches; "map" attends to them; "concat" maps them
        side by side, so that each keeps its place (for few patches, and one resolution).
    pooler: tanh(x W + b) of what `pool` gives, as Hugging Face's ViT has behind its class token.
    norm: where a block normalises, see `BlockConfig`.
    embedding_norm: a layer norm before the first block (CLIP's pre_layernorm).
    final_norm: a layer norm after the last block.
    stem: "patch", one linear map a patch; "conv", early convolutions, for which patch_size is a power of 2.
    stem_norm: of the convolutional stem: "group", an example by itself; "batch", with running averages in evaluation.
    stem_residual: convolutions of stride 1 after each of the convolutional stem's halvings; () is none.
    patch_dropout_rate: share of the patches left out in training.
    drop_path_rate, remat, unroll: see `StackConfig`.
    """

    patch_size: int = 16
    width: int = 768
    depth: int = 12
    mlp_dim: int = 3072
    num_heads: int = 12
    position: Literal["learned", "sincos2d"] = "learned"
    position_stddev: float | None = None
    pool: Literal["cls", "mean", "map", "concat"] = "map"
    pooler: bool = False
    norm: Literal["pre", "post"] = "pre"
    norm_eps: float = 1e-6
    embedding_norm: bool = False
    final_norm: bool = True
    patch_bias: bool = True
    activation: Activation = "gelu_tanh"
    qk_norm: bool = False
    stem: Literal["patch", "conv"] = "patch"
    stem_norm: ConvNorm = "group"
    stem_residual: tuple[int, ...] = ()
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    patch_dropout_rate: float = 0.0
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if min(self.image_shape) < self.patch_size:
            named = self.image_size if self.image_width is None else f"or image_width, {self.image_shape}"
            raise UserError(f"patch_size {self.patch_size} is larger than image_size {named}: change either")
        if self.width % self.num_heads:
            raise UserError(f"num_heads {self.num_heads} does not divide width {self.width}: change either")
        if self.stem == "conv" and (
            self.patch_size.bit_count() != 1 or any(side % self.patch_size for side in self.image_shape)
        ):
            raise UserError(
                f"stem 'conv' halves the image again and again: patch_size {self.patch_size} must be a power of 2 that "
                f"divides image_size {self.image_size} and image_width, where there is one"
            )
        if self.stem != "conv" and (self.stem_residual or self.stem_norm != "group"):
            remedy = "leave out stem_residual and stem_norm, or set stem to 'conv'"
            raise UserError(f"stem {self.stem!r} has no convolutions: {remedy}")
        if self.stem_residual and 2 ** len(self.stem_residual) != self.patch_size:
            stages = self.patch_size.bit_length() - 1
            raise UserError(
                f"stem_residual {self.stem_residual} needs {stages} numbers, one each time the size is halved"
            )
        if self.pool == "concat" and self.patch_dropout_rate:
            raise UserError("pool 'concat' needs every patch: set patch_dropout_rate to 0, or pool to 'map'")
        if self.position == "sincos2d" and self.width % 4:
            raise UserError(f"position 'sincos2d' needs a width that 4 divides, not {self.width}")
        if self.position == "sincos2d" and self.position_stddev is not None:
            raise UserError("position 'sincos2d' is fixed and has no position_stddev: leave it out, or use 'learned'")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.image_shape
        return rows // self.patch_size, columns // self.patch_size

    @property
    def needs_whole_batch(self) -> bool:
        return self.stem_norm == "batch"

    def build(self, key: Key) -> "ViT":
        return ViT(self, key)

    @property
    def num_prefix(self) -> int:
        """Tokens in front of the patches."""
        return 1 if self.pool == "cls" else 0

    @property
    def num_tokens(self) -> int:
        """Positions that the stack sees when no patch is dropped."""
        return self.num_prefix + self.grid[0] * self.grid[1]

    @property
    def block(self) -> BlockConfig:
        return BlockConfig(
            width=self.width,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm=self.norm,
            norm_eps=self.norm_eps,
            qk_norm=self.qk_norm,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
        )

    @property
    def stack(self) -> StackConfig:
        return StackConfig(self.depth, self.drop_path_rate, self.remat, self.unroll)


class ViT(ImageTower):
    """pool(norm(blocks(stem(image) + positions))), and what the config adds to it."""

    def __init__(self, config: ViTConfig, key: Key):
        keys = jax.random.split(key, 8)
        width, eps = config.width, config.norm_eps
        self.config = config
        self.stem = _stem(config, keys[0])
        if config.pool == "cls":
            self.class_token = parameter(keys[1], "d", (width,), initializers.normal(width**-0.5))
        if config.position == "learned":
            stddev = width**-0.5 if config.position_stddev is None else config.position_stddev
            self.positions = parameter(keys[2], "pd", (config.num_tokens, width), initializers.normal(stddev))
        self.embedding_norm = LayerNorm(keys[3], width, eps=eps) if config.embedding_norm else None
        self.blocks = stack.stacked(config.block, config.depth, keys[4])
        self.final_norm = LayerNorm(keys[5], width, eps=eps) if config.final_norm else None
        self.pool: MapPool | ConcatPool
        if config.pool == "map":
            self.pool = MapPool(
                keys[6], width, config.num_heads, config.mlp_dim, activation=config.activation, norm_eps=eps
            )
        if config.pool == "concat":
            self.pool = ConcatPool(keys[6], config.num_tokens, width)
        self.pooler = Linear(keys[7], "de", (width, width)) if config.pooler else None

    def __call__(self, image: Array, key: Key | None = None) -> tuple[Array, dict[str, Array]]:
        """See `ImageTower`; `tokens` are normalised, the class token first."""
        patch_key, dropout_key, stack_key = split(key, 3)
        x = self._embed(image, patch_key)
        x = dropout(x, self.config.dropout_rate, dropout_key, "btd")
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        num_tokens = x.shape[1]
        x, mask = aligned(x)
        x = stack.run(self.blocks, self.config.stack, x, key_mask(mask), stack_key)
        features = self._pool(x, mask, num_tokens)
        features = features if self.pooler is None else jnp.tanh(self.pooler(features))
        return features, {"tokens": self._normed(x)[:, :num_tokens], "features": features}

    def _embed(self, image: Array, key: Key | None) -> Array:
        table = self._position_table()
        tokens = self.stem(normalised(image, self.config), training=key is not None)
        patches = tokens + table[self.config.num_prefix :]
        patches = drop_patches(patches, self.config.patch_dropout_rate, key)
        if self.config.pool != "cls":
            return patches
        token = weight(self.class_token, patches.dtype) + table[0]
        shape = (patches.shape[0], 1, patches.shape[2])
        return jnp.concatenate([jnp.broadcast_to(token, shape, out_sharding=rules.spec("btd")), patches], axis=1)

    def _position_table(self) -> Array:
        if self.config.position == "learned":
            return weight(self.positions, self.config.compute_dtype)
        table = positions.sincos_2d(self.config.grid, self.config.width)
        return jnp.asarray(np.pad(table, ((self.config.num_prefix, 0), (0, 0))), self.config.compute_dtype)

    def _pool(self, x: Array, mask: Array | None, num_tokens: int) -> Array:
        """Of x (b, t, d), normalised; where one position is read, that alone."""
        if self.config.pool == "cls":
            return self._normed(take_position(x, 0))
        tokens = self._normed(x)
        if self.config.pool == "mean":
            return jnp.mean(tokens[:, :num_tokens], axis=1)
        return self.pool(tokens, mask) if isinstance(self.pool, MapPool) else self.pool(tokens[:, :num_tokens])

    def _normed(self, x: Array) -> Array:
        return x if self.final_norm is None else self.final_norm(x)


def _stem(config: ViTConfig, key: Key) -> PatchStem | ConvStem:
    match config.stem:
        case "patch":
            return PatchStem(key, config.patch_size, config.width, bias=config.patch_bias)
        case "conv":
            return ConvStem(
                key,
                config.patch_size,
                config.width,
                activation=config.activation,
                norm=config.stem_norm,
                norm_eps=config.norm_eps,
                num_residual=config.stem_residual,
            )
