"""What decides the results of a trained model, in one form: configs of the same function have the same one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmjax.nn.bimodal import STREAMS, Layer, Name, grouped

TRAINING_ONLY = (
    "dropout_rate",
    "attention_dropout_rate",
    "pair_dropout_rate",
    "drop_path_rate",
    "patch_dropout_rate",
    "compute_dtype",
    "remat",
    "unroll",
    "position_stddev",
    "locked",
    "init",
    "log_scale",
)
"""Fields of our configs that do not change what a trained model computes: where it starts is not where it has come."""


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of a config without what only training reads, the rest in one form."""
    form: dict[str, Any] = {name: plain(value) if isinstance(value, dict) else value for name, value in values.items()}
    for name in TRAINING_ONLY:
        form.pop(name, None)
    if "logit_bias" in form:
        form["logit_bias"] = form["logit_bias"] is not None
    if form.get("causal") and form.get("pool") == "eot":
        # Padding stands behind the end of text, where a causal token cannot look.
        form["use_mask"] = False
    if not form.get("embed_dim"):
        # Nothing reads what would be pooled.
        form.pop("embed_pool", None)
    if "image_size" in form and form.get("image_width") is None:
        form["image_width"] = form["image_size"]
    if "groups" in form:
        # Held stacked or not, layers are what they are.
        form["layers"] = layers_in_words(form.pop("groups"), form["text"], form["image"])
    return form


def layers_in_words(groups: list[dict[str, Any]], text: Mapping[str, Any], image: Mapping[str, Any]) -> str:
    """The layers of a trunk with blocks `text` and `image`: the same words for the same layers, however grouped."""
    blocks = {"text": text, "image": image}
    layers = [_plain_layer(Layer(**layer), blocks) for group in groups for layer in group["layers"] * group["repeat"]]
    return "; ".join(
        f"{group.repeat} x ({', then '.join(_in_words(layer) for layer in group.layers)})" for group in grouped(layers)
    )


def _plain_layer(layer: Layer, blocks: Mapping[str, Mapping[str, Any]]) -> Layer:
    """The layer with 0 where it says of its attention what its blocks say too."""
    attending = [blocks[name] for name in STREAMS if getattr(layer, name) != "nothing"]
    own_width = all(block["width"] == layer.inner_width for block in attending)
    own_heads = all(block["num_heads"] == layer.num_heads for block in attending)
    return replace(
        layer, inner_width=0 if own_width else layer.inner_width, num_heads=0 if own_heads else layer.num_heads
    )


def _in_words(layer: Layer) -> str:
    """As in: "text sees both and image sees both, shared"."""
    streams = [words for name in STREAMS if (words := _stream_in_words(layer, name))]
    sizes = {"width": layer.inner_width, "heads": layer.num_heads}
    extra = [f"{name} {size}" for name, size in sizes.items() if size] + ["shared"] * layer.shared
    return ", ".join([" and ".join(streams) or "nothing", *extra])


def _stream_in_words(layer: Layer, name: Name) -> str:
    sees, has_mlp = getattr(layer, name), getattr(layer, f"{name}_mlp")
    if sees == "nothing":
        return f"{name} has an MLP alone" if has_mlp else ""
    return f"{name} sees {sees}" + ("" if has_mlp else " without MLP")
