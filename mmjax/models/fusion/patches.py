"""Patches of pixels, or positions of a convolutional network, as tokens of the image stream."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mmjax.errors import UserError
from mmjax.models.base import Colours
from mmjax.models.fusion.image_input import ImageInput, ImageInputConfig, ImageTokens
from mmjax.models.fusion.text_input import TextInput
from mmjax.models.resnet import ResNetConfig
from mmjax.models.tower import Colour, normalise
from mmjax.nn.dropout import dropout
from mmjax.nn.linear import Linear
from mmjax.nn.norm import LayerNorm
from mmjax.nn.parameter import BERT_INIT, parameter, weight
from mmjax.nn.stem import PatchStem, patches_of
from mmjax.parallel import rules
from mmjax.types import Array, Batch, Key


@dataclass(frozen=True)
class PatchInputConfig(ImageInputConfig):
    """Patches as ViT has them (Dosovitskiy et al., 2021, eq. 1).

    image_size, image_width: rows and columns in pixels; no `image_width` makes the image square.
    image_mean, image_std: what uint8 pixels, scaled to 0..1, are normalised with.
    class_token: a token in front that is no patch.
    norm: a layer norm of the sum, as inputs of post-norm layers have.
    mask_token: what stands in the place of a masked patch (BEiT, Bao et al., 2022, section 2.3); zeros without it.
    """

    image_size: int = 224
    image_width: int | None = None
    image_mean: Colour = (0.5, 0.5, 0.5)
    image_std: Colour = (0.5, 0.5, 0.5)
    patch_size: int = 16
    class_token: bool = True
    position_stddev: float = 0.02
    norm: bool = False
    norm_eps: float = 1e-12
    mask_token: bool = False

    def __post_init__(self) -> None:
        if any(side % self.patch_size for side in self.image_shape):
            raise UserError(f"patch_size {self.patch_size} does not divide the image {self.image_shape}: change either")

    @property
    def image_shape(self) -> tuple[int, int]:
        return self.image_size, self.image_size if self.image_width is None else self.image_width

    @property
    def image_colours(self) -> Colours:
        return self.image_mean, self.image_std

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.image_shape
        return rows // self.patch_size, columns // self.patch_size

    @property
    def num_parts(self) -> int:
        rows, columns = self.grid
        return rows * columns

    @property
    def num_prefix(self) -> int:
        """Tokens in front of the patches."""
        return int(self.class_token)

    @property
    def num_tokens(self) -> int:
        return self.num_prefix + self.num_parts

    def build(self, key: Key) -> "PatchInput":
        return PatchInput(self, key)


class PatchInput(ImageInput):
    """[class; patches W + b] + positions."""

    def __init__(self, config: PatchInputConfig, key: Key):
        keys = jax.random.split(key, 5)
        self.config = config
        self.stem = PatchStem(keys[0], config.patch_size, config.width, bias=True)
        if config.class_token:
            self.class_token = parameter(keys[1], "d", (config.width,), BERT_INIT)
        init = jax.nn.initializers.truncated_normal(config.position_stddev)
        self.positions = parameter(keys[2], "pd", (config.num_tokens, config.width), init)
        self.norm = LayerNorm(keys[3], config.width, eps=config.norm_eps) if config.norm else None
        if config.mask_token:
            self.mask_token = parameter(keys[4], "d", (config.width,), BERT_INIT)

    def __call__(
        self, batch: Batch, text: TextInput, dtype: DTypeLike, masked: Array | None = None, key: Key | None = None
    ) -> ImageTokens:
        """`image` (b, y, x, 3), uint8 or normalised -> tokens (b, p, d), the class token first and never masked."""
        image = normalise(batch["image"], self.config.image_mean, self.config.image_std)
        x = self.stem(image.astype(dtype))
        x = x if masked is None else jnp.where(masked[..., None], self._hidden(dtype), x)
        if self.config.class_token:
            shape = (len(x), 1, self.config.width)
            first = jnp.broadcast_to(weight(self.class_token, dtype), shape, out_sharding=rules.spec("bpd"))
            x = jnp.concatenate([first, x], axis=1)
        x = x + weight(self.positions, dtype)
        x = x if self.norm is None else self.norm(x)
        return ImageTokens(dropout(x, self.config.dropout_rate, key, "bpd"), None)

    def pixels(self, batch: Batch) -> Array:
        """The normalised pixels of each patch, float32 (b, p, patch_size * patch_size * 3)."""
        image = normalise(batch["image"], self.config.image_mean, self.config.image_std)
        return patches_of(image, self.config.patch_size)

    def _hidden(self, dtype: DTypeLike) -> Array:
        return weight(self.mask_token, dtype) if self.config.mask_token else jnp.zeros((), dtype)


@dataclass(frozen=True)
class GridInputConfig(ImageInputConfig):
    """The positions of the last stage of a convolutional network, as Pixel-BERT has them (Huang et al., 2020).

    tower: the network, importable from a Hugging Face `ResNetModel`.
    mask_token: see `PatchInputConfig`.
    """

    tower: ResNetConfig = field(default_factory=ResNetConfig)
    norm_eps: float = 1e-12
    mask_token: bool = False

    @property
    def image_shape(self) -> tuple[int, int]:
        return self.tower.image_shape

    @property
    def image_colours(self) -> Colours:
        return self.tower.image_mean, self.tower.image_std

    @property
    def num_parts(self) -> int:
        return self.tower.num_positions

    @property
    def needs_whole_batch(self) -> bool:
        return self.tower.needs_whole_batch

    def build(self, key: Key) -> "GridInput":
        return GridInput(self, key)


class GridInput(ImageInput):
    """norm(positions of the network W + b + place), the places learned."""

    def __init__(self, config: GridInputConfig, key: Key):
        keys = jax.random.split(key, 5)
        self.config = config
        self.tower = config.tower.build(keys[0])
        self.projection = Linear(keys[1], "cd", (config.tower.width, config.width), init=BERT_INIT)
        self.positions = parameter(keys[2], "pd", (config.tower.num_positions, config.width), BERT_INIT)
        self.norm = LayerNorm(keys[3], config.width, eps=config.norm_eps)
        if config.mask_token:
            self.mask_token = parameter(keys[4], "d", (config.width,), BERT_INIT)

    def __call__(
        self, batch: Batch, text: TextInput, dtype: DTypeLike, masked: Array | None = None, key: Key | None = None
    ) -> ImageTokens:
        """`image` (b, y, x, 3), uint8 or normalised -> tokens (b, p, d), one a position."""
        _, extras = self.tower(batch["image"], key)
        x = self.projection(extras["tokens"].astype(dtype))
        x = x if masked is None else jnp.where(masked[..., None], self._hidden(dtype), x)
        x = self.norm(x + weight(self.positions, dtype))
        return ImageTokens(dropout(x, self.config.dropout_rate, key, "bpd"), None)

    def _hidden(self, dtype: DTypeLike) -> Array:
        return weight(self.mask_token, dtype) if self.config.mask_token else jnp.zeros((), dtype)
