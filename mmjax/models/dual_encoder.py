"""Dual encoder: an image tower and a text tower that meet in one embedding space (CLIP, SigLIP)."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from mmjax.errors import UserError
from mmjax.models.base import Colours, Model, ModelConfig
from mmjax.models.text import TextConfig, TextTransformer
from mmjax.models.tower import ImageTowerConfig
from mmjax.models.vit import ViTConfig
from mmjax.nn.linear import Linear
from mmjax.nn.norm import l2_normalise
from mmjax.nn.parameter import parameter
from mmjax.types import Array, Batch, Key

Tower = TypeVar("Tower", bound=nnx.Module)
Projection = Literal["none", "linear", "biased"]


@dataclass(frozen=True)
class DualEncoderConfig(ModelConfig):
    """Two towers and what joins them.

    embed_dim: of the shared space.
    image_projection, text_projection: from a tower's width to `embed_dim`: "linear" has no bias, "biased" has one;
        "none" wants the width to be `embed_dim` already.
    log_scale: at the start; the temperature of the softmax loss is exp(-log_scale).
    logit_bias: at the start; None where the loss has no bias (CLIP).
    locked: a tower that stays as it is and runs as in evaluation, without dropout and with running statistics; what
        stands behind it still learns (Zhai et al., 2022, LiT, sec. 3).
    """

    image: ImageTowerConfig = field(default_factory=ViTConfig)
    text: TextConfig = field(default_factory=TextConfig)
    embed_dim: int = 768
    image_projection: Projection = "none"
    text_projection: Projection = "biased"
    log_scale: float = math.log(10)
    logit_bias: float | None = -10.0
    locked: Literal["none", "image", "text"] = "none"

    def __post_init__(self) -> None:
        for tower in ("image", "text"):
            width, projection = getattr(self, tower).width, getattr(self, f"{tower}_projection")
            if projection == "none" and width != self.embed_dim:
                raise UserError(
                    f"{tower}_projection is 'none' but {tower}.width {width} is not embed_dim {self.embed_dim}: "
                    "make them equal or set it to 'linear'"
                )

    @property
    def text_len(self) -> int:
        return self.text.context_len

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def image_shape(self) -> tuple[int, int]:
        return self.image.image_shape

    @property
    def image_colours(self) -> Colours:
        return self.image.image_mean, self.image.image_std

    @property
    def needs_whole_batch(self) -> bool:
        return self.image.needs_whole_batch and self.locked != "image"

    def build(self, key: Key) -> "DualEncoder":
        return DualEncoder(self, key)

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        return () if self.locked == "none" else (f"{self.locked}/.*",)


class DualEncoder(Model):
    """x = normalise(P_x image_tower(image)) and y = normalise(P_y text_tower(text)), both of length 1."""

    def __init__(self, config: DualEncoderConfig, key: Key):
        keys = jax.random.split(key, 6)
        self.config = config
        self.image = config.image.build(keys[0])
        self.text = TextTransformer(config.text, keys[1])
        self.image_projection = _projection(keys[2], config.image_projection, config.image.width, config.embed_dim)
        self.text_projection = _projection(keys[3], config.text_projection, config.text.width, config.embed_dim)
        self.log_scale = parameter(keys[4], "", (), initializers.constant(config.log_scale))
        if config.logit_bias is None:
            self.logit_bias = None
        else:
            self.logit_bias = parameter(keys[5], "", (), initializers.constant(config.logit_bias))

    def encode_image(self, image: Array, key: Key | None = None) -> tuple[Array, dict[str, Array]]:
        """`image_embed` float32 (b, e), of length 1, and the extras of `ImageTower`; `key` switches dropout on."""
        tower, key = (_locked(self.image), None) if self.config.locked == "image" else (self.image, key)
        features, extras = tower(image, key)
        return l2_normalise(_projected(features, self.image_projection)), extras

    def encode_text(self, text_ids: Array, text_mask: Array, key: Key | None = None) -> tuple[Array, dict[str, Array]]:
        """`text_embed` float32 (b, e), of length 1, and the extras of `TextTransformer`; `key` switches dropout on."""
        tower, key = (_locked(self.text), None) if self.config.locked == "text" else (self.text, key)
        features, extras = tower(text_ids, text_mask, key)
        return l2_normalise(_projected(features, self.text_projection)), extras

    def run_tower(self, name: Literal["image", "text"], batch: Batch, key: Key | None) -> Any:
        if name == "image":
            return self.encode_image(batch["image"], key)
        return self.encode_text(batch["text_ids"], batch["text_mask"], key)

    def image_embed(self, fields: Batch) -> Array:
        return self.encode_image(fields["image"])[0]

    def text_embed(self, text_ids: Array, text_mask: Array) -> Array:
        return self.encode_text(text_ids, text_mask)[0]

    def bias(self) -> Array:
        """What is added to every logit: the learned `logit_bias`, or 0 where the model has none."""
        return jnp.zeros(()) if self.logit_bias is None else self.logit_bias[...]


def _locked(tower: Tower) -> Tower:
    """The tower with parameters that are constants to a derivative: its backward pass is then never written."""
    graph, state = nnx.split(tower)
    return nnx.merge(graph, jax.lax.stop_gradient(state))


def _projection(key: Key, kind: Projection, width: int, embed_dim: int) -> Linear | None:
    if kind == "none":
        return None
    return Linear(key, "de", (width, embed_dim), bias=kind == "biased", init=initializers.lecun_normal())


def _projected(features: Array, projection: Linear | None) -> Array:
    return features if projection is None else projection(features)
