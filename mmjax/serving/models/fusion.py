"""A text stream and an image stream, each by itself at first and then with each other, and heads on what comes out.

The PyTorch counterpart of `mmjax.models.fusion.model.Fusion`, for inference.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from mmjax.serving.models.config import opened
from mmjax.serving.models.heads import AnswerHead, Pooler, RegionHead, TokenHead
from mmjax.serving.models.inputs import IMAGE_INPUTS, Batch, ImageInput, TextInput, zeros
from mmjax.serving.models.layers import LayerNorm
from mmjax.serving.models.trunk import Concat, Masks, Streams, Trunk

Outputs = dict[str, Tensor]


class Tokens(NamedTuple):
    """tokens (b, t, d) of one stream, and mask bool (b, t), True for those that may be seen; None hides nothing."""

    tokens: Tensor
    mask: Tensor | None

    def mean(self) -> Tensor:
        """(b, d), of the tokens that may be seen."""
        if self.mask is None:
            return self.tokens.mean(1)
        seen = self.mask[..., None].to(self.tokens.dtype)
        return (self.tokens * seen).sum(1) / seen.sum(1).clamp(min=1)


class Fusion(nn.Module):
    """heads(fusion(towers(inputs))).

    Built from the plain dict of a `FusionConfig` of mmjax, as `mmjax.config.to_dict` gives it.

    Raises:
        UserError: a field of the config is missing or unknown.
    """

    def __init__(self, values: Mapping[str, Any]):
        super().__init__()
        config = opened(values)
        self.config = config
        towers, fusion = config.towers, config.fusion
        self.text = TextInput(config.text)
        self.image: ImageInput | None = None if config.image is None else IMAGE_INPUTS[config.image.kind](config.image)
        self.modality_types = zeros(2, config.text.width) if config.modality_types else None
        self.towers = Trunk(towers)
        self.image_tower_norm = (
            LayerNorm(towers.image.width, towers.image.norm_eps) if config.image_tower_norm else None
        )
        self.concat = None if config.concat is None else Concat(config.concat, towers)
        self.fusion = Trunk(fusion)
        self.final_norm = LayerNorm(fusion.text.width, fusion.text.norm_eps) if config.final_norm else None
        streams = () if config.pooler is None else config.pooler.streams
        self.pooler = nn.ModuleDict({name: Pooler(getattr(fusion, name).width, config.pooler) for name in streams})
        self._add_heads(config.heads, fusion)
        if config.embed_dim:
            self.text_projection = nn.Linear(towers.text.width, config.embed_dim)
            self.image_projection = nn.Linear(towers.image.width, config.embed_dim)
            self.log_scale = zeros()

    def _add_heads(self, heads: SimpleNamespace, fusion: SimpleNamespace) -> None:
        pooler, width = self.config.pooler, fusion.text.width
        style = fusion.text.activation, fusion.text.norm_eps
        pooled = width if pooler is None or heads.pair == "token" else pooler.width or width
        self.token_head = TokenHead(self.config.text, width, *style) if heads.tokens else None
        self.pair_head = nn.Linear(pooled, heads.num_pair_classes) if heads.num_pair_classes else None
        self.region_heads = nn.ModuleList(RegionHead(head, fusion.image.width, *style) for head in heads.regions)
        self.answer_head = AnswerHead(width, heads.num_answers, fusion.text.norm_eps) if heads.num_answers else None

    def encode_text(self, text_ids: Tensor, text_mask: Tensor, token_types: Tensor | None = None) -> Tokens:
        """The text behind its tower: `text_ids` int and `text_mask` bool (b, t), True for real tokens.

        Raises:
            ValueError: the texts are longer than the model takes.
        """
        x = self._with_modality(self.text(text_ids, token_types), 0)
        tokens = self.towers(Streams(x, None), Masks(text_mask, None)).text
        return Tokens(tokens, text_mask)

    def encode_image(self, batch: Batch, masked: Tensor | None = None) -> Tokens:
        """The image behind its tower, from what the input takes of the batch.

        `image` (b, 3, y, x), normalised; or `region_features` (b, p, c), `region_boxes` (b, p, 4), each left, top,
        right and bottom as fractions of the image, and `region_mask` bool (b, p), True for real regions. `masked` bool
        (b, p) is True for patches, positions or regions whose content is hidden.

        Raises:
            ValueError: images of another size.
        """
        assert self.image is not None, "a model of texts alone has no image"
        x, mask = self.image(batch, self.text, masked)
        tokens = self.towers(Streams(None, self._with_modality(x, 1)), Masks(None, mask)).image
        return Tokens(tokens if self.image_tower_norm is None else self.image_tower_norm(tokens), mask)

    def fuse(self, text: Tokens, image: Tokens | None) -> Streams:
        """Both streams behind the fusion layers."""
        streams = Streams(text.tokens, None if image is None else image.tokens)
        masks = Masks(text.mask, None if image is None else image.mask)
        streams = streams if self.concat is None else self.concat(streams, masks)
        streams = self.fusion(streams, masks)
        if self.final_norm is None:
            return streams
        return Streams(*(x if x is None else self.final_norm(x) for x in streams))

    def embed_text(self, text: Tokens) -> Tensor:
        """float32 (b, e) of length 1, from what the tower gives."""
        return _normalised(self.text_projection(self._pooled(text)))

    def embed_image(self, image: Tokens) -> Tensor:
        """float32 (b, e) of length 1, from what the tower gives."""
        return _normalised(self.image_projection(self._pooled(image)))

    def _pooled(self, tokens: Tokens) -> Tensor:
        return tokens.tokens[:, 0] if self.config.embed_pool == "first" else tokens.mean()

    def pool(self, streams: Streams) -> Outputs:
        """What the poolers give, by stream."""
        return {name: pooler(getattr(streams, name)) for name, pooler in self.pooler.items()}

    def pair_logits(self, streams: Streams, pooled: Outputs) -> Tensor:
        """Logits (b, classes) of the pair."""
        assert self.pair_head is not None
        assert streams.text is not None
        match self.config.heads.pair:
            case "text":
                return self.pair_head(pooled["text"])
            case "product":
                return self.pair_head(pooled["text"] * pooled["image"])
        return self.pair_head(streams.text[:, 0])

    def token_logits(self, x: Tensor) -> Tensor:
        """Logits (b, t, words) of tokens (b, t, d) of the text stream, all of them or some."""
        assert self.token_head is not None
        return self.token_head(x, self.text)

    def streams(self, batch: Batch, masked: Tensor | None = None) -> Streams:
        """Both streams of a batch in which each text has its image.

        `text_ids`, `text_mask`, where there is one `token_types`, and what the image input takes.
        """
        text = self.encode_text(batch["text_ids"], batch["text_mask"], batch.get("token_types"))
        return self.fuse(text, None if self.image is None else self.encode_image(batch, masked))

    def outputs(self, streams: Streams) -> Outputs:
        """The outputs of all heads by name.

        `text_pooled` and `image_pooled`, `token_logits`, `pair_logits`, `answer_logits`, and those of the region heads.
        """
        assert streams.text is not None
        pooled = self.pool(streams)
        outputs = {f"{name}_pooled": x for name, x in pooled.items()}
        if self.token_head is not None:
            outputs["token_logits"] = self.token_logits(streams.text)
        if self.pair_head is not None:
            outputs["pair_logits"] = self.pair_logits(streams, pooled)
        if self.answer_head is not None:
            outputs["answer_logits"] = self.answer_head(pooled["text"])
        if streams.image is not None and self.image is not None:
            for head in self.region_heads:
                outputs |= head(streams.image, self.image)
        return outputs

    def forward(self, batch: Batch, masked: Tensor | None = None) -> Outputs:
        """See `outputs` and `streams`."""
        return self.outputs(self.streams(batch, masked))

    def _with_modality(self, x: Tensor, number: int) -> Tensor:
        return x if self.modality_types is None else x + self.modality_types[number]


def _normalised(x: Tensor) -> Tensor:
    """x / |x|, float32; a zero vector stays zero."""
    return functional.normalize(x.float(), dim=-1)
