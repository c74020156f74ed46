"""Fusion models that start from foreign weights: a whole model, or streams of a BERT, a ViT, a ResNet."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from mmjax import config
from mmjax.errors import UserError
from mmjax.interop.formats import Spec, as_function
from mmjax.interop.fusion.albef import SELF
from mmjax.interop.fusion.trunk import Part, Parts, layers_of, text_input_rows, trunk_rows
from mmjax.interop.huggingface import bert, resnet, vit
from mmjax.interop.huggingface.layers import norm
from mmjax.interop.layouts import PATCHES, SAME, Shape, reshaped
from mmjax.interop.mapping import Row, Table, partly_to_ours
from mmjax.interop.sizes import SIZE_FIELDS, resized
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.patches import GridInputConfig, PatchInputConfig
from mmjax.models.resnet import ResNetConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from mmjax.nn.bimodal import Layer, Name
from mmjax.nn.block import BlockConfig

TEXT_LAYER, IMAGE_LAYER = "encoder.layer.{l}.", "encoder.layer.{l}."
FEED_FORWARD: Table = tuple(row for row in bert.LAYER if row not in SELF)
TEXT_TABLES, IMAGE_TABLES = ("text/positions", "text/token_types"), ("image/positions",)
"""May have another number of rows in the checkpoint."""
NEGLIGIBLE_EPS = 1e-5
"""Two that layer norms add to a variance give the same up to rounding where they differ by less."""
FREE_FIELDS = ("heads", "pooler", "embed_dim", "embed_pool")
"""May differ from those of the whole model that is started from: what is read from the streams, not the streams."""
HEADS = re.compile(
    r"(token_head|pair_head|answer_head|region_heads|pooler|text_projection|image_projection)/.*|log_scale"
)
"""What `init.backbone_only` leaves as it was born."""
GRID_FIELDS = (
    *("embedding_dim", "stage_dims", "depths", "layer", "activation"),
    *("downsample_in_first_stage", "downsample_in_bottleneck"),
)
"""What a network is, but for the size of its images."""
Tower = TextConfig | ViTConfig | ResNetConfig


def text_rows(model: FusionConfig) -> Table:
    """What a `BertModel` has for the text stream, and for layers that are shared by both: as many of its layers, from
    the first on, as attend to their own stream. A cross-attention has no counterpart, but the feed-forward part behind
    it has where the self-attention before it lacks one (ALBEF)."""
    return (*text_input_rows(model.text, "embeddings."), *_trunks(model, _text_parts))


def image_rows(model: FusionConfig) -> Table:
    """What a `ResNetModel` has for a grid; what a `ViTModel` has for patches and the image stream, and for layers that
    are shared by both and normalise first (ViLT): class token, positions, layers, and the norm behind them."""
    if isinstance(model.image, GridInputConfig):
        rows = (row for row in resnet.rows(model.image.tower) if row.paths)
        return tuple(replace(row, ours=tuple(_in_grid(path) for path in row.paths)) for row in rows)
    assert isinstance(model.image, PatchInputConfig)
    stem = "embeddings.patch_embeddings.projection"
    table: Table = (
        Row("image/stem/projection/kernel", f"{stem}.weight", PATCHES),
        Row("image/stem/projection/bias", f"{stem}.bias", SAME),
        Row("image/positions", "embeddings.position_embeddings", reshaped(1)),
        *_trunks(model, _image_parts),
    )
    if model.image.class_token:
        table += (Row("image/class_token", "embeddings.cls_token", reshaped(1, 1)),)
    if model.image_tower_norm:
        table += norm("image_tower_norm", "layernorm")
    if model.final_norm:
        table += norm("final_norm", "layernorm")
    return table


def _in_grid(path: str) -> str:
    return path.replace("image/", "image/tower/", 1)


def _trunks(model: FusionConfig, parts: Parts) -> Table:
    alone = sum(
        group.repeat * sum(layer.text == "text" and layer.text_mlp for layer in group.layers)
        for group in (*model.towers.groups, *model.fusion.groups)
    )
    counts = Counter({"feed-forward": alone})
    towers = trunk_rows("towers", model.towers.groups, parts, counts)
    if any(layer.shared and not layer.is_joint for layer in layers_of(model.fusion)):
        # LXMERT's language layers start from BERT's first, as its authors' do; with the others they would be too many.
        return towers
    return (*towers, *trunk_rows("fusion", model.fusion.groups, parts, counts))


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
    theirs: Tower,
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Shape],
) -> dict[str, np.ndarray]:
    """The parameters of one stream of `model`, by path, from a tower that a folder holds.

    Of a text's positions and token types the first rows are taken, as many as the model has; those of patches are
    resized to its image.

    Raises:
        UserError: the tower is of another kind or size, or has too few layers or rows.
    """
    check_stream(model, name, theirs)
    table = text_rows(model) if name == "text" else image_rows(model)
    tables = [path for row in table for path in row.paths if path in (*TEXT_TABLES, *IMAGE_TABLES)]
    whole = dict(shapes) | {path: tensors[_name_of(table, path)].shape[-2:] for path in tables}
    found = partly_to_ours(table, tensors, whole)
    return {path: fitted(model, theirs, path, array) for path, array in found}


def fitted(model: FusionConfig, theirs: Tower | FusionConfig, path: str, array: np.ndarray) -> np.ndarray:
    """The array with as many rows as `model` has, where `path` is a table of positions or token types.

    Raises:
        UserError: a table of the text has too few.
    """
    if path in IMAGE_TABLES and isinstance(model.image, PatchInputConfig):
        patches = theirs.image if isinstance(theirs, FusionConfig) else theirs
        assert isinstance(patches, ViTConfig | PatchInputConfig), "checked before anything is read"
        return resized(array, patches, model.image)
    if path not in TEXT_TABLES:
        return array
    wanted = model.text.context_len if path == "text/positions" else model.text.num_token_types
    if len(array) < wanted:
        raise UserError(f"{path} has {wanted} rows, but the checkpoint only {len(array)}: make the model's fewer")
    return array[:wanted]


def whole(
    model: FusionConfig,
    theirs: FusionConfig,
    parameters: Iterator[tuple[str, np.ndarray]],
    shapes: Mapping[str, Shape],
    *,
    backbone_only: bool,
) -> dict[str, np.ndarray]:
    """Of `parameters` of a whole model those that the new one has in these `shapes`: a head of other classes is left,
    and of `backbone_only` every head.

    Raises:
        UserError: the streams of the two differ.
    """
    differing = config.differences(as_function(Spec(model, None)), as_function(Spec(theirs, None)))
    refused = {field: values for field, values in differing.items() if not _may_differ(field)}
    if refused:
        shown = ", ".join(f"model.{field}={found!r}" for field, (_, found) in sorted(refused.items()))
        raise UserError(f"init.source is not of this config: it needs {shown}")
    wanted = (entry for entry in parameters if not (backbone_only and HEADS.fullmatch(entry[0])))
    found = ((path, fitted(model, theirs, path, array)) for path, array in wanted)
    return {path: array for path, array in found if array.shape == shapes.get(path)}


def _may_differ(field: str) -> bool:
    return field.split(".")[0] in FREE_FIELDS or field.split(".")[-1] in SIZE_FIELDS


def _name_of(table: Table, path: str) -> str:
    return next(row.theirs for row in table if path in row.paths)


def check_stream(model: FusionConfig, name: Name, theirs: Tower) -> None:
    """Refuses a tower whose layers are not those of the stream, with what they differ in."""
    if name == "image" and isinstance(model.image, GridInputConfig):
        _check_grid(model.image, theirs)
        return
    block: BlockConfig = getattr(model.towers, name)
    if not isinstance(theirs, TextConfig if name == "text" else ViTConfig):
        kinds = "a BertModel for text, a ViTModel for patches, a ResNetModel for a grid"
        raise UserError(f"init.{name}_source holds a {type(theirs).__name__}: name {kinds}")
    if name == "image" and not isinstance(model.image, PatchInputConfig):
        raise UserError("init.image_source fills patches or a grid, which this model has not: leave it out")
    wanted: dict[str, tuple[object, object]] = {
        field: (getattr(block, field), getattr(theirs, field))
        for field in ("width", "num_heads", "mlp_dim", "activation", "norm")
    }
    if abs(block.norm_eps - theirs.norm_eps) >= NEGLIGIBLE_EPS:
        wanted["norm_eps"] = block.norm_eps, theirs.norm_eps
    if isinstance(model.image, PatchInputConfig) and isinstance(theirs, ViTConfig):
        wanted["patch_size"] = model.image.patch_size, theirs.patch_size
    if isinstance(theirs, TextConfig):
        wanted["vocab_size"] = model.text.vocab_size, theirs.vocab_size
    _refuse(f"init.{name}_source does not fit the {name} stream", wanted)


def _check_grid(grid: GridInputConfig, theirs: Tower) -> None:
    """The network is the same but for the size of the image."""
    if not isinstance(theirs, ResNetConfig):
        raise UserError(f"init.image_source holds a {type(theirs).__name__}: name a ResNetModel for a grid")
    wanted = {field: (getattr(grid.tower, field), getattr(theirs, field)) for field in GRID_FIELDS}
    _refuse("init.image_source does not fit model.image.tower", wanted)


def _refuse(what: str, wanted: Mapping[str, tuple[object, object]]) -> None:
    differing = [f"{field} = {ours!r} ({found!r} there)" for field, (ours, found) in wanted.items() if ours != found]
    if differing:
        raise UserError(f"{what}: {', '.join(differing)}: make them equal")
