"""Rows and fields that several classes of Hugging Face share."""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.formats import choice, inverted
from mmjax.interop.layouts import LINEAR, SAME, Layout, fused
from mmjax.interop.mapping import Ignored, Row, Table, placed
from mmjax.nn.mlp import Activation

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}
"""Their names of activations as ours; the first of several is the one that is written."""

POSITION_IDS = Ignored(r"(.*\.)?position_ids", "they count from 0; older versions saved them")


def linear(ours: str, theirs: str, layout: Layout = LINEAR) -> Table:
    """Kernel and bias of a linear layer."""
    return Row(f"{ours}/kernel", f"{theirs}.weight", layout), Row(f"{ours}/bias", f"{theirs}.bias", SAME)


def norm(ours: str, theirs: str) -> Table:
    """Scale and bias of a layer norm."""
    return Row(f"{ours}/scale", f"{theirs}.weight", SAME), Row(f"{ours}/bias", f"{theirs}.bias", SAME)


def attention(ours: str, query: str, key: str, value: str, out: str) -> Table:
    """Four projections under their own names."""
    return (
        *linear(f"{ours}/query", query),
        *linear(f"{ours}/key", key),
        *linear(f"{ours}/value", value),
        *linear(f"{ours}/out", out),
    )


def fused_attention(ours: str, theirs: str) -> Table:
    """As `torch.nn.MultiheadAttention` has it: queries, keys and values in one matrix."""
    kernels = tuple(f"{ours}/{name}/kernel" for name in ("query", "key", "value"))
    biases = tuple(f"{ours}/{name}/bias" for name in ("query", "key", "value"))
    return (
        Row(kernels, f"{theirs}.in_proj_weight", fused(LINEAR)),
        Row(biases, f"{theirs}.in_proj_bias", fused(SAME)),
        *linear(f"{ours}/out", f"{theirs}.out_proj"),
    )


CLIP_LAYER: Table = (
    *norm("attention_norm", "layer_norm1"),
    *attention("attention", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    *norm("mlp_norm", "layer_norm2"),
    *linear("mlp/up", "mlp.fc1"),
    *linear("mlp/down", "mlp.fc2"),
)
"""A layer of `CLIPModel` and of `SiglipModel`."""

CLIP_BLOCKS: Table = placed(CLIP_LAYER, "blocks/", "encoder.layers.{l}.")


def size_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a tower that all their Transformers name alike, as ours."""
    return {
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "mlp_dim": config["intermediate_size"],
        "num_heads": config["num_attention_heads"],
        "norm_eps": config["layer_norm_eps"],
        "activation": choice("hidden_act", config["hidden_act"], ACTIVATIONS),
    }


def written_size(tower: Any) -> dict[str, Any]:
    """The inverse of `size_fields`."""
    return {
        "hidden_size": tower.width,
        "num_hidden_layers": tower.depth,
        "intermediate_size": tower.mlp_dim,
        "num_attention_heads": tower.num_heads,
        "layer_norm_eps": tower.norm_eps,
        "hidden_act": inverted(ACTIVATIONS)[tower.activation],
    }
