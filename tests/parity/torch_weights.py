"""Our parameter tree filled from the state dict of a Hugging Face `CLIPModel` or `SiglipModel`.

Written for the tests alone and by hand, apart from any converter, so that the two can disagree.
"""

from typing import Any

import numpy as np

StateDict = dict[str, np.ndarray]
Tree = dict[str, Any]


def clip_params(state: StateDict) -> Tree:
    """The tree of `DualEncoder` from CLIP's weights."""
    vision = under(state, "vision_model")
    image = {
        "stem": {"projection": {"kernel": _patch_kernel(vision["embeddings.patch_embedding.weight"])}},
        "class_token": vision["embeddings.class_embedding"],
        "positions": vision["embeddings.position_embedding.weight"],
        "embedding_norm": norm(under(vision, "pre_layrnorm")),
        "blocks": blocks(under(vision, "encoder.layers")),
        "final_norm": norm(under(vision, "post_layernorm")),
    }
    return {
        "image": image,
        "text": _text(under(state, "text_model")),
        "image_projection": {"kernel": state["visual_projection.weight"].T},
        "text_projection": {"kernel": state["text_projection.weight"].T},
        "log_scale": state["logit_scale"],
    }


def siglip_params(state: StateDict) -> Tree:
    """The tree of `DualEncoder` from SigLIP's weights."""
    vision = under(state, "vision_model")
    kernel = _patch_kernel(vision["embeddings.patch_embedding.weight"])
    image = {
        "stem": {"projection": {"kernel": kernel, "bias": vision["embeddings.patch_embedding.bias"]}},
        "positions": vision["embeddings.position_embedding.weight"],
        "blocks": blocks(under(vision, "encoder.layers")),
        "final_norm": norm(under(vision, "post_layernorm")),
        "pool": _map_pool(under(vision, "head")),
    }
    return {
        "image": image,
        "text": _text(under(state, "text_model")),
        "text_projection": linear(under(state, "text_model.head")),
        "log_scale": state["logit_scale"].reshape(()),
        "logit_bias": state["logit_bias"].reshape(()),
    }


def under(state: StateDict, prefix: str) -> StateDict:
    return {name.removeprefix(f"{prefix}."): array for name, array in state.items() if name.startswith(f"{prefix}.")}


def linear(state: StateDict) -> Tree:
    return {"kernel": state["weight"].T, "bias": state["bias"]}


def norm(state: StateDict) -> Tree:
    return {"scale": state["weight"], "bias": state["bias"]}


def blocks(layers: StateDict) -> Tree:
    """All layers, stacked on a leading axis."""
    depth = 1 + max(int(name.partition(".")[0]) for name in layers)
    return _stacked([_block(under(layers, str(layer))) for layer in range(depth)])


def _text(state: StateDict) -> Tree:
    return {
        "tokens": {"table": _padded(state["embeddings.token_embedding.weight"])},
        "positions": state["embeddings.position_embedding.weight"],
        "blocks": blocks(under(state, "encoder.layers")),
        "final_norm": norm(under(state, "final_layer_norm")),
    }


def _block(state: StateDict) -> Tree:
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    layers = {ours: linear(under(state, f"self_attn.{name}")) for ours, name in names.items()}
    out = linear(under(state, "self_attn.out_proj"))
    return {
        "attention_norm": norm(under(state, "layer_norm1")),
        "attention": {**layers, "out": out},
        "mlp_norm": norm(under(state, "layer_norm2")),
        "mlp": _mlp(under(state, "mlp")),
    }


def _map_pool(state: StateDict) -> Tree:
    joint = zip(*(np.split(state[f"attention.in_proj_{kind}"], 3) for kind in ("weight", "bias")), strict=True)
    query, key, value = (linear({"weight": weight, "bias": bias}) for weight, bias in joint)
    out = linear(under(state, "attention.out_proj"))
    return {
        "probe": state["probe"][0],
        "attention": {"query": query, "key": key, "value": value, "out": out},
        "norm": norm(under(state, "layernorm")),
        "mlp": _mlp(under(state, "mlp")),
    }


def _mlp(state: StateDict) -> Tree:
    return {"up": linear(under(state, "fc1")), "down": linear(under(state, "fc2"))}


def _patch_kernel(weight: np.ndarray) -> np.ndarray:
    """(d, c, y, x) -> (y * x * c, d)."""
    return weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))


def _padded(table: np.ndarray) -> np.ndarray:
    return np.pad(table, ((0, -len(table) % 128), (0, 0)))


def _stacked(trees: list[Any]) -> Any:
    if isinstance(trees[0], dict):
        return {name: _stacked([tree[name] for tree in trees]) for name in trees[0]}
    return np.stack(trees)
