"""Streams of a fusion model that start from a BERT or a ViT, layer by layer."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from mmjax.errors import UserError
from mmjax.interop.fusion.albef import SELF
from mmjax.interop.fusion.trunk import Part, Parts, text_input_rows, trunk_rows
from mmjax.interop.huggingface import bert, vit
from mmjax.interop.huggingface.layers import norm
from mmjax.interop.layouts import PATCHES, SAME, Shape, reshaped
from mmjax.interop.mapping import Row, Table, partly_to_ours
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.patches import PatchInputConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from mmjax.nn.bimodal import Layer, Name
from mmjax.nn.block import BlockConfig

TEXT_LAYER, IMAGE_LAYER = "encoder.layer.{l}.", "encoder.layer.{l}."
FEED_FORWARD: Table = tuple(row for row in bert.LAYER if row not in SELF)


def text_rows(model: FusionConfig) -> Table:
    """What a `BertModel` has for the text stream, and for layers that are shared by both: as many of its layers, from
    the first on, as attend to their own stream. A cross-attention has no counterpart, but the feed-forward part behind
    it has where the self-attention before it lacks one (ALBEF)."""
    return (*text_input_rows(model.text, "embeddings."), *_trunks(model, _text_parts))


def image_rows(model: FusionConfig) -> Table:
    """What a `ViTModel` has for the image stream, and for layers that are shared by both and normalise first (ViLT):
    patches, class token, positions, layers, and the norm behind them."""
    assert isinstance(model.image, PatchInputConfig)
    stem = "embeddings.patch_embeddings.projection"
    rows: Table = (
        Row("image/stem/projection/kernel", f"{stem}.weight", PATCHES),
        Row("image/stem/projection/bias", f"{stem}.bias", SAME),
        Row("image/positions", "embeddings.position_embeddings", reshaped(1)),
        *_trunks(model, _image_parts),
    )
    if model.image.class_token:
        rows += (Row("image/class_token", "embeddings.cls_token", reshaped(1, 1)),)
    if model.image_tower_norm:
        rows += norm("image_tower_norm", "layernorm")
    if model.final_norm:
        rows += norm("final_norm", "layernorm")
    return rows


def _trunks(model: FusionConfig, parts: Parts) -> Table:
    alone = sum(
        group.repeat * sum(layer.text == "text" and layer.text_mlp for layer in group.layers)
        for group in (*model.towers.groups, *model.fusion.groups)
    )
    counts = Counter({"feed-forward": alone})
    return (
        *trunk_rows("towers", model.towers.groups, parts, counts),
        *trunk_rows("fusion", model.fusion.groups, parts, counts),
    )


def _text_parts(layer: Layer) -> Iterable[Part]:
    if layer.is_joint:
        yield Part("shared", TEXT_LAYER, bert.LAYER, "layer")
    elif layer.text == "text" and not layer.shared:
        yield Part("text", TEXT_LAYER, bert.LAYER if layer.text_mlp else SELF, "layer")
    elif layer.text == "image" and layer.image == "nothing" and layer.text_mlp:
        yield Part("text", TEXT_LAYER, FEED_FORWARD, "feed-forward")


def _image_parts(layer: Layer) -> Iterable[Part]:
    if layer.is_joint:
        yield Part("shared", IMAGE_LAYER, vit.LAYER, "layer")
    elif layer.image == "image" and not layer.shared:
        yield Part("image", IMAGE_LAYER, vit.LAYER, "layer")


def taken(
    model: FusionConfig,
    name: Name,
    theirs: TextConfig | ViTConfig,
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Shape],
) -> dict[str, np.ndarray]:
    """The parameters of one stream of `model`, by path, from a tower that a folder holds.

    Of positions and token types the first rows are taken, as many as the model has.

    Raises:
        UserError: the tower is of another kind or size, or has too few layers or rows.
    """
    check_stream(model, name, theirs)
    table = text_rows(model) if name == "text" else image_rows(model)
    cut = {path: shapes[path] for path in ("text/positions", "text/token_types") if name == "text"}
    whole = dict(shapes) | {path: tensors[_name_of(table, path)].shape for path in cut}
    found = dict(partly_to_ours(table, tensors, whole))
    for path, shape in cut.items():
        if len(found[path]) < shape[0]:
            raise UserError(
                f"{path} has {shape[0]} rows, but the checkpoint only {len(found[path])}: make the model's fewer"
            )
        found[path] = found[path][: shape[0]]
    return found


def _name_of(table: Table, path: str) -> str:
    return next(row.theirs for row in table if path in row.paths)


def check_stream(model: FusionConfig, name: Name, theirs: TextConfig | ViTConfig) -> None:
    """Refuses a tower whose layers are not those of the stream, with what they differ in."""
    block: BlockConfig = getattr(model.towers, name)
    if not isinstance(theirs, TextConfig if name == "text" else ViTConfig):
        raise UserError(
            f"init.{name}_source holds a {type(theirs).__name__}: name a BertModel for text, a ViTModel for image"
        )
    if name == "image" and not isinstance(model.image, PatchInputConfig):
        raise UserError("init.image_source fills patches and their layers, which this model has not: leave it out")
    wanted: dict[str, tuple[object, object]] = {
        field: (getattr(block, field), getattr(theirs, field))
        for field in ("width", "num_heads", "mlp_dim", "activation", "norm", "norm_eps")
    }
    if name == "text":
        wanted["vocab_size"] = model.text.vocab_size, theirs.vocab_size  # type: ignore[union-attr]
    differing = [f"{field} = {ours!r} ({found!r} there)" for field, (ours, found) in wanted.items() if ours != found]
    if differing:
        raise UserError(f"init.{name}_source does not fit the {name} stream: {', '.join(differing)}: make them equal")
