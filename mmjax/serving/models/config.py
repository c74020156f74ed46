"""The plain dict of a fusion model's config as nested namespaces, every field checked.

A field that is not known here could change what the model computes, so none is left out in silence.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from mmjax.errors import UserError

Fields = dict[str, Any]
"""Names of fields: None for a value, the `Fields` of a nested config, or a list of those where there are several."""

CLASS_KEY = "class"
"""Where a field may hold one of several classes, its config names the one, as module:Class."""


def _values(*names: str) -> Fields:
    return dict.fromkeys(names)


TEXT = _values("vocab_size", "context_len", "width", "num_token_types", "norm_eps", "dropout_rate")
BLOCK = _values(
    *("width", "num_heads", "mlp_dim", "activation", "norm", "norm_eps", "qk_norm", "init"),
    *("source_width", "inner_width", "attention", "mlp", "dropout_rate", "attention_dropout_rate"),
)
LAYER = _values("text", "image", "text_mlp", "image_mlp", "shared", "inner_width", "num_heads")
GROUP: Fields = {"layers": [LAYER], "repeat": None}
TRUNK: Fields = {"text": BLOCK, "image": BLOCK, "groups": [GROUP], **_values("remat", "unroll")}
POOLER = _values("streams", "activation", "width")
REGION_HEAD = _values("outputs", "tied")
HEADS: Fields = {"regions": [REGION_HEAD], **_values("tokens", "num_pair_classes", "pair", "num_answers")}
CONCAT = _values("num_heads", "dropout_rate")
PIXELS = ("image_size", "image_width", "image_mean", "image_std")
RESNET = _values(
    *(*PIXELS, "embedding_dim", "stage_dims", "depths", "layer", "activation", "compute_dtype"),
    *("downsample_in_first_stage", "downsample_in_bottleneck"),
)
IMAGE_INPUTS: dict[str, Fields] = {
    "RegionInputConfig": _values(
        *("width", "feature_dim", "location", "whole_image", "part_norms", "mean", "token_type", "num_token_types"),
        *("num_positions", "norm", "norm_eps", "mask_token", "dropout_rate"),
    ),
    "PatchInputConfig": _values(
        *("width", *PIXELS, "patch_size", "class_token", "position_stddev"),
        *("norm", "norm_eps", "mask_token", "dropout_rate"),
    ),
    "GridInputConfig": {"tower": RESNET, **_values("width", "norm_eps", "mask_token", "dropout_rate")},
}
FUSION: Fields = {
    "text": TEXT,
    "image": None,
    "towers": TRUNK,
    "fusion": TRUNK,
    "concat": CONCAT,
    "pooler": POOLER,
    "heads": HEADS,
    **_values("modality_types", "image_tower_norm", "final_norm", "embed_dim", "embed_pool", "log_scale"),
    **_values("pair_dropout_rate", "compute_dtype"),
}

OPTIONAL = ("concat", "pooler")
"""Parts that a model may lack."""


def opened(values: Mapping[str, Any]) -> SimpleNamespace:
    """The config of a `Fusion`; its `image` has the name of its class as `kind`.

    Raises:
        UserError: a field is missing or unknown.
    """
    config = _opened(values, FUSION, "model")
    if config.image is not None:
        inside = dict(config.image)
        kind = str(inside.pop(CLASS_KEY, "")).rpartition(":")[2]
        if kind not in IMAGE_INPUTS:
            known = ", ".join(IMAGE_INPUTS)
            raise UserError(f"model.image.{CLASS_KEY} is {kind!r}, not one of {known}: correct the config of the model")
        config.image = _opened(inside, IMAGE_INPUTS[kind], "model.image")
        config.image.kind = kind
    return config


def _opened(values: Any, fields: Any, path: str) -> Any:
    if fields is None:
        return values
    if isinstance(fields, list):
        return [_opened(item, fields[0], f"{path}[{number}]") for number, item in enumerate(values)]
    if not isinstance(values, Mapping):
        raise UserError(f"{path} is {values!r}, and no object: correct the config of the model")
    for problem, names in (("lacks", fields.keys() - values.keys()), ("does not know", values.keys() - fields.keys())):
        if names:
            raise UserError(f"{path} {problem} {', '.join(sorted(names))}: correct the config of the model")
    nested = {name: None if name in OPTIONAL and values[name] is None else kind for name, kind in fields.items()}
    return SimpleNamespace(**{name: _opened(values[name], kind, f"{path}.{name}") for name, kind in nested.items()})
