"""A text stream and an image stream, each by itself at first and then with each other, and heads on what comes out."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from mmjax.errors import UserError
from mmjax.models.base import Colours, Model, ModelConfig
from mmjax.models.fusion.concat import Concat, ConcatConfig
from mmjax.models.fusion.heads import AnswerHead, HeadsConfig, Pooler, PoolerConfig, RegionHead, TokenHead
from mmjax.models.fusion.image_input import ImageInput, ImageInputConfig
from mmjax.models.fusion.regions import RegionInputConfig
from mmjax.models.fusion.text_input import TextInput, TextInputConfig
from mmjax.nn.bimodal import STREAMS, Masks, Name, Streams, Trunk, TrunkConfig
from mmjax.nn.dropout import dropout, split
from mmjax.nn.linear import Linear
from mmjax.nn.norm import LayerNorm, l2_normalise
from mmjax.nn.parameter import BERT_INIT, parameter, weight
from mmjax.types import Array, Batch, Key

Outputs = dict[str, Array]


@dataclass(frozen=True)
class FusionConfig(ModelConfig):
    """The parts of a fusion model.

    image: None where the text is alone (BERT).
    towers: layers in which each stream sees itself alone; what they give can be kept for other partners.
    concat: what stands between towers and fusion, see `ConcatConfig`.
    fusion: layers in which streams may see each other.
    modality_types: adds one of two vectors to each token behind the inputs, that of its stream (ViLT).
    image_tower_norm: a layer norm of the image stream behind the towers, for layers that normalise before.
    final_norm: a layer norm behind the fusion, the same for both streams.
    pooler: see `PoolerConfig`; None has none.
    pair_dropout_rate: of what the pair's head reads.
    embed_dim: width of the space in which the towers are contrasted; 0 leaves their projections out.
    embed_pool: what the projections read: the "first" token, as ALBEF does, or the "mean" of those that may be seen,
        which learns in far fewer steps from random weights.
    log_scale: of that contrast at the start; its temperature is exp(-log_scale).

    Raises:
        UserError: parts that do not fit together.
    """

    text: TextInputConfig
    image: ImageInputConfig | None
    towers: TrunkConfig
    fusion: TrunkConfig
    concat: ConcatConfig | None = None
    modality_types: bool = False
    image_tower_norm: bool = False
    final_norm: bool = False
    pooler: PoolerConfig | None = PoolerConfig()
    heads: HeadsConfig = HeadsConfig()
    pair_dropout_rate: float = 0.0
    embed_dim: int = 0
    embed_pool: Literal["first", "mean"] = "first"
    log_scale: float = math.log(1 / 0.07)
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for group in self.towers.groups:
            for layer in group.layers:
                if not layer.is_separate:
                    raise UserError(f"{layer} in towers sees the other stream: move it to fusion")
        for name in STREAMS:
            inputs = getattr(self, name)
            if inputs is not None:
                _check_width(f"towers.{name}", getattr(self.towers, name).width, inputs.width)
                _check_width(f"fusion.{name}", getattr(self.fusion, name).width, self.widen(name))
        if self.final_norm and self.fusion.text.width != self.fusion.image.width:
            raise UserError("final_norm is shared by both streams, but their widths differ: make them equal")
        if any(head.tied for head in self.heads.regions) and not isinstance(self.image, RegionInputConfig):
            raise UserError("a tied head of regions predicts their features: give it an image of RegionInputConfig")
        if self.heads.pair == "product" and (self.pooler is None or set(self.pooler.streams) != set(STREAMS)):
            raise UserError("heads.pair 'product' needs both streams pooled: set pooler.streams to ('text', 'image')")
        if self.heads.pair == "text" and self.pooler is None and self.heads.num_pair_classes:
            raise UserError("heads.pair 'text' needs a pooler: add one, or set pair to 'token'")

    @property
    def embeds(self) -> bool:
        return self.embed_dim > 0

    @property
    def fuses(self) -> bool:
        return self.image is not None and (self.heads.tokens or self.heads.num_pair_classes == 2)

    @property
    def text_len(self) -> int:
        return self.text.context_len

    @property
    def takes_shorter_texts(self) -> bool:
        return True

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def image_shape(self) -> tuple[int, int] | None:
        return None if self.image is None else self.image.image_shape

    @property
    def image_colours(self) -> Colours | None:
        return None if self.image is None else self.image.image_colours

    @property
    def region_dim(self) -> int | None:
        return self.image.feature_dim if isinstance(self.image, RegionInputConfig) else None

    @property
    def needs_whole_batch(self) -> bool:
        return self.image is not None and self.image.needs_whole_batch

    def build(self, key: Key) -> "Fusion":
        return Fusion(self, key)

    def widen(self, name: Name) -> int:
        """The width of a stream in the fusion: that of the towers, or what the concatenation makes of it."""
        own: int = getattr(self.towers, name).width
        return own if self.concat is None else 2 * own


def _check_width(name: str, width: int, expected: int) -> None:
    if width != expected:
        raise UserError(f"{name}.width is {width}, but what comes in is {expected} wide: make them equal")


class Tokens(NamedTuple):
    """tokens (b, t, d) of one stream, and mask bool (b, t), True for those that may be seen; None hides nothing."""

    tokens: Array
    mask: Array | None

    def mean(self) -> Array:
        """(b, d), of the tokens that may be seen."""
        if self.mask is None:
            return jnp.mean(self.tokens, axis=1)
        seen = self.mask[:, :, None].astype(self.tokens.dtype)
        return jnp.sum(self.tokens * seen, axis=1) / jnp.maximum(jnp.sum(seen, axis=1), 1)


class Fusion(Model):
    """heads(fusion(towers(inputs))); see `FusionConfig`."""

    def __init__(self, config: FusionConfig, key: Key):
        keys = iter(jax.random.split(key, 16))
        widths: dict[str, int] = {name: getattr(config.fusion, name).width for name in STREAMS}
        self.config = config
        self.text = TextInput(config.text, next(keys))
        self.image: ImageInput | None = None if config.image is None else config.image.build(next(keys))
        if config.modality_types:
            self.modality_types = parameter(next(keys), "gd", (2, config.text.width), BERT_INIT)
        self.towers = Trunk(config.towers, next(keys))
        block = config.towers.image
        self.image_tower_norm = (
            LayerNorm(next(keys), block.width, eps=block.norm_eps) if config.image_tower_norm else None
        )
        self.concat = None if config.concat is None else Concat(config.concat, config.towers, next(keys))
        self.fusion = Trunk(config.fusion, next(keys))
        eps = config.fusion.text.norm_eps
        self.final_norm = LayerNorm(next(keys), widths["text"], eps=eps) if config.final_norm else None
        self.pooler = _poolers(config, next(keys))
        self._add_heads(config.heads, widths, next(keys))
        if config.embed_dim:
            self._add_projections(config, next(keys))

    def _add_heads(self, heads: HeadsConfig, widths: dict[str, int], key: Key) -> None:
        keys = jax.random.split(key, 4)
        block = self.config.fusion.text
        style = block.activation, block.norm_eps
        self.token_head = TokenHead(keys[0], widths["text"], self.text, *style) if heads.tokens else None
        pooled = self.config.pooler.width if self.config.pooler is not None and heads.pair != "token" else 0
        shape = (pooled or widths["text"], heads.num_pair_classes)
        self.pair_head = Linear(keys[1], "dc", shape, init=BERT_INIT) if heads.num_pair_classes else None
        region_keys = jax.random.split(keys[2], max(1, len(heads.regions)))
        self.region_heads = nnx.List(
            RegionHead(head, region_key, widths["image"], *style)
            for head, region_key in zip(heads.regions, region_keys, strict=False)
        )
        self.answer_head = (
            AnswerHead(keys[3], widths["text"], heads.num_answers, block.norm_eps) if heads.num_answers else None
        )

    def _add_projections(self, config: FusionConfig, key: Key) -> None:
        keys = jax.random.split(key, 3)
        text, image = config.towers.text.width, config.towers.image.width
        self.text_projection = Linear(keys[0], "de", (text, config.embed_dim), init=BERT_INIT)
        self.image_projection = Linear(keys[1], "de", (image, config.embed_dim), init=BERT_INIT)
        self.log_scale = parameter(keys[2], "", (), initializers.constant(config.log_scale))

    def encode_text(
        self, text_ids: Array, text_mask: Array, key: Key | None = None, token_types: Array | None = None
    ) -> Tokens:
        """The text behind its tower: `text_ids` int32 and `text_mask` bool (b, t), True for real tokens."""
        input_key, tower_key = split(key, 2)
        x = self.text(text_ids, token_types, self.config.compute_dtype, input_key)
        x = self._with_modality(x, 0)
        tokens = self.towers(Streams(x, None), Masks(text_mask, None), tower_key).text
        assert tokens is not None
        return Tokens(tokens, text_mask)

    def encode_image(self, batch: Batch, key: Key | None = None, masked: Array | None = None) -> Tokens:
        """The image behind its tower, from what the input takes of the batch; `masked` as in `ImageInput`."""
        assert self.image is not None
        input_key, tower_key = split(key, 2)
        x, mask = self.image(batch, self.text, self.config.compute_dtype, masked, input_key)
        x = self._with_modality(x, 1)
        tokens = self.towers(Streams(None, x), Masks(None, mask), tower_key).image
        assert tokens is not None
        return Tokens(tokens if self.image_tower_norm is None else self.image_tower_norm(tokens), mask)

    def fuse(self, text: Tokens, image: Tokens | None, key: Key | None = None) -> Streams:
        """Both streams behind the fusion layers."""
        concat_key, fusion_key = split(key, 2)
        streams = Streams(text.tokens, None if image is None else image.tokens)
        masks = Masks(text.mask, None if image is None else image.mask)
        streams = streams if self.concat is None else self.concat(streams, masks, concat_key)
        streams = self.fusion(streams, masks, fusion_key)
        if self.final_norm is None:
            return streams
        return Streams(*(x if x is None else self.final_norm(x) for x in streams))

    def embed_text(self, text: Tokens) -> Array:
        """float32 (b, e) of length 1, from what the tower gives."""
        return l2_normalise(self.text_projection(self._pooled(text)))

    def embed_image(self, image: Tokens) -> Array:
        """float32 (b, e) of length 1, from what the tower gives."""
        return l2_normalise(self.image_projection(self._pooled(image)))

    def _pooled(self, tokens: Tokens) -> Array:
        """(b, d), see `FusionConfig.embed_pool`."""
        return tokens.tokens[:, 0] if self.config.embed_pool == "first" else tokens.mean()

    def run_tower(self, name: Name, batch: Batch, key: Key | None) -> Any:
        if name == "text":
            return self.encode_text(batch["text_ids"], batch["text_mask"], key)
        return () if self.image is None else self.encode_image(batch, key)

    def text_embed(self, text_ids: Array, text_mask: Array) -> Array:
        return self.embed_text(self.encode_text(text_ids, text_mask))

    def image_embed(self, fields: Batch) -> Array:
        return self.embed_image(self.encode_image(fields))

    def pool(self, streams: Streams) -> dict[str, Array]:
        """What the poolers give, by stream."""
        return {name: pooler(getattr(streams, name)) for name, pooler in self.pooler.items()}

    def pair_logits(self, streams: Streams, pooled: dict[str, Array], key: Key | None = None) -> Array:
        """Logits (b, classes) of the pair."""
        match self.config.heads.pair:
            case "text":
                x = pooled["text"]
            case "product":
                x = pooled["text"] * pooled["image"]
            case "token":
                assert streams.text is not None
                x = streams.text[:, 0]
        assert self.pair_head is not None
        return self.pair_head(dropout(x, self.config.pair_dropout_rate, key, "bd"))

    def match(self, text: Tokens, image: Tokens) -> Array:
        """The log odds float32 (b,) that text and image of a row belong together, of a head whose class 1 is that."""
        streams = self.fuse(text, image)
        logits = self.pair_logits(streams, self.pool(streams)).astype(jnp.float32)
        return logits[:, 1] - logits[:, 0]

    def words(self, text: Tokens, image: Tokens) -> Array:
        """The likeliest token int32 (b, t) at each place of the text."""
        streams = self.fuse(text, image)
        assert streams.text is not None
        assert self.token_head is not None
        return jnp.argmax(self.token_head(streams.text, self.text), axis=-1)

    def region_outputs(self, image: Array) -> Outputs:
        """Of every region head, by the names of their outputs (b, p, ...)."""
        assert self.image is not None
        outputs: Outputs = {}
        for head in self.region_heads:
            outputs |= head(image, self.image)
        return outputs

    def __call__(self, batch: Batch, key: Key | None = None, masked: Array | None = None) -> tuple[Streams, Outputs]:
        """Both streams, and the outputs of all heads by name, of a batch in which each text has its image.

        `text_ids`, `text_mask`, where there is one `token_types`, and what the image input takes. Outputs:
        `text_pooled` and `image_pooled`, `token_logits`, `pair_logits`, `answer_logits`, and those of the region heads.
        """
        text_key, image_key, fusion_key, pair_key = split(key, 4)
        text = self.encode_text(batch["text_ids"], batch["text_mask"], text_key, batch.get("token_types"))
        image = None if self.image is None else self.encode_image(batch, image_key, masked)
        streams = self.fuse(text, image, fusion_key)
        return streams, self._outputs(streams, pair_key)

    def _outputs(self, streams: Streams, key: Key | None) -> Outputs:
        pooled = self.pool(streams)
        outputs = {f"{name}_pooled": x for name, x in pooled.items()}
        assert streams.text is not None
        if self.token_head is not None:
            outputs["token_logits"] = self.token_head(streams.text, self.text)
        if self.pair_head is not None:
            outputs["pair_logits"] = self.pair_logits(streams, pooled, key)
        if self.answer_head is not None:
            outputs["answer_logits"] = self.answer_head(pooled["text"])
        return outputs if streams.image is None else outputs | self.region_outputs(streams.image)

    def _with_modality(self, x: Array, number: int) -> Array:
        return x + weight(self.modality_types, x.dtype)[number] if self.config.modality_types else x


def _poolers(config: FusionConfig, key: Key) -> nnx.Dict:
    if config.pooler is None:
        return nnx.Dict({})
    keys = jax.random.split(key, len(config.pooler.streams))
    return nnx.Dict(
        {
            name: Pooler(pooler_key, getattr(config.fusion, name).width, config.pooler)
            for name, pooler_key in zip(config.pooler.streams, keys, strict=True)
        }
    )
