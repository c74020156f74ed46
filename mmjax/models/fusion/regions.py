"""Regions that a detector found, each with features and a box, as tokens of the image stream."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mmjax.errors import UserError
from mmjax.models.fusion.image_input import ImageInput, ImageInputConfig, ImageTokens
from mmjax.models.fusion.text_input import TextInput
from mmjax.nn.dropout import dropout
from mmjax.nn.linear import Linear
from mmjax.nn.norm import LayerNorm
from mmjax.nn.parameter import BERT_INIT, parameter, weight
from mmjax.parallel import rules
from mmjax.types import Array, Batch, Key

Location = Literal["none", "box", "area", "size"]
LOCATION_DIMS: dict[Location, int] = {"none": 0, "box": 4, "area": 5, "size": 7}


@dataclass(frozen=True)
class RegionInputConfig(ImageInputConfig):
    """How features and boxes become tokens; the defaults are ViLBERT's but for the width.

    feature_dim: of a region's features.
    location: "box" is left, top, right, bottom as fractions of the image (LXMERT); "area" adds the fraction that it
        covers (ViLBERT); "size" adds width, height and their product (UNITER); "none" leaves the box out (VisualBERT).
    whole_image: puts a region in front that is the whole image; its features are the mean of those of the others, of
        which masked ones are 0.
    part_norms: a layer norm each of the mapped features and the mapped location.
    mean: the mean of both parts instead of their sum (LXMERT).
    token_type: row 1 of the text's token types is added ("text"), or row 1 of a table of its own ("own").
    num_token_types: rows of that table.
    num_positions: rows of a table of positions of its own, of which row 0 is added to every region: VisualBERT, whose
        regions have no order. 0 leaves it out.
    norm: of the sum: one of its own, the "text" input's, or "none".
    mask_token: what is added to the features of masked regions, which are 0 (UNITER); they stay 0 without it.
    """

    feature_dim: int = 2048
    location: Location = "area"
    whole_image: bool = False
    part_norms: bool = False
    mean: bool = False
    token_type: Literal["none", "text", "own"] = "none"
    num_token_types: int = 2
    num_positions: int = 0
    norm: Literal["own", "text", "none"] = "own"
    norm_eps: float = 1e-12
    mask_token: bool = False

    def __post_init__(self) -> None:
        if self.mean and self.location == "none":
            raise UserError("mean = True needs two parts, but location is 'none': set it to 'box', or mean to False")

    def build(self, key: Key) -> "RegionInput":
        return RegionInput(self, key)


class RegionInput(ImageInput):
    """norm(features W_f + location W_l + type), with what the config adds or leaves out."""

    def __init__(self, config: RegionInputConfig, key: Key):
        keys = jax.random.split(key, 8)
        width, eps = config.width, config.norm_eps
        has_location = config.location != "none"
        self.config = config
        self.features = Linear(keys[0], "cd", (config.feature_dim, width), init=BERT_INIT)
        if has_location:
            self.location = Linear(keys[1], "cd", (LOCATION_DIMS[config.location], width), init=BERT_INIT)
        self.features_norm = LayerNorm(keys[2], width, eps=eps) if config.part_norms else None
        self.location_norm = LayerNorm(keys[3], width, eps=eps) if config.part_norms and has_location else None
        if config.token_type == "own":
            self.token_types = parameter(keys[4], "gd", (config.num_token_types, width), BERT_INIT)
        if config.num_positions:
            self.positions = parameter(keys[5], "pd", (config.num_positions, width), BERT_INIT)
        self.norm = LayerNorm(keys[6], width, eps=eps) if config.norm == "own" else None
        if config.mask_token:
            self.mask_token = parameter(keys[7], "c", (config.feature_dim,), BERT_INIT)

    def __call__(
        self, batch: Batch, text: TextInput, dtype: DTypeLike, masked: Array | None = None, key: Key | None = None
    ) -> ImageTokens:
        """`region_features` (b, p, c), `region_boxes` (b, p, 4), `region_mask` bool (b, p) -> tokens (b, p, d)."""
        mask = batch["region_mask"]
        features = self._masked(batch["region_features"].astype(dtype), mask, masked)
        location = location_of(batch["region_boxes"], self.config.location).astype(dtype)
        if self.config.whole_image:
            features, location, mask = _with_whole_image(features, location, mask)
        x = self._parts(features, location) + self._constants(text, dtype)
        norm = text.norm if self.config.norm == "text" else self.norm
        x = x if norm is None else norm(x)
        return ImageTokens(dropout(x, self.config.dropout_rate, key, "bpd"), mask)

    def _masked(self, features: Array, mask: Array, masked: Array | None) -> Array:
        features = jnp.where(mask[..., None], features, 0)
        if masked is None:
            return features
        hidden = weight(self.mask_token, features.dtype) if self.config.mask_token else jnp.zeros((), features.dtype)
        return jnp.where(masked[..., None], hidden, features)

    def _parts(self, features: Array, location: Array) -> Array:
        x = self.features(features)
        x = x if self.features_norm is None else self.features_norm(x)
        if self.config.location == "none":
            return x
        y = self.location(location)
        y = y if self.location_norm is None else self.location_norm(y)
        return (x + y) / 2 if self.config.mean else x + y

    def _constants(self, text: TextInput, dtype: DTypeLike) -> Array:
        """What is the same for all regions (d,)."""
        total = jnp.zeros((self.config.width,), dtype)
        if self.config.token_type == "text":
            total += text.type_row(1, dtype)
        if self.config.token_type == "own":
            total += weight(self.token_types, dtype)[1]
        return total + weight(self.positions, dtype)[0] if self.config.num_positions else total


def location_of(boxes: Array, kind: Location) -> Array:
    """boxes (b, p, 4), each left, top, right, bottom as fractions of the image -> the numbers of that kind (b, p, ...).

    Raises:
        UserError: boxes of another number of sides.
    """
    if boxes.shape[-1] != 4:
        raise UserError(f"region_boxes have {boxes.shape[-1]} numbers each: give left, top, right and bottom")
    left, top, right, bottom = (boxes[..., side] for side in range(4))
    width, height = right - left, bottom - top
    match kind:
        case "none" | "box":
            return boxes
        case "area":
            return jnp.concatenate([boxes, (width * height)[..., None]], axis=-1)
        case "size":
            return jnp.concatenate([boxes, jnp.stack([width, height, width * height], axis=-1)], axis=-1)


def _with_whole_image(features: Array, location: Array, mask: Array) -> tuple[Array, Array, Array]:
    """The same with a region in front: the mean of features, and the location of all that there is."""
    count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True, dtype=features.dtype), 1)
    mean = jnp.sum(features, axis=1) / count
    numbers = jnp.asarray([0, 0, 1, 1] + [1] * (location.shape[-1] - 4), location.dtype)
    shape = (len(location), 1, len(numbers))
    everything = jnp.broadcast_to(numbers, shape, out_sharding=rules.spec("bpc"))
    return (
        jnp.concatenate([mean[:, None], features], axis=1),
        jnp.concatenate([everything, location], axis=1),
        jnp.concatenate([jnp.ones_like(mask[:, :1]), mask], axis=1),
    )
