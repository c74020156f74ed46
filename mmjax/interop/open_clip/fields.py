"""The fields of open_clip's configs: their defaults, and which must stay off because we have no layer for them."""

from collections.abc import Mapping
from typing import Any

from mmjax.config import suggestion
from mmjax.errors import UserError
from mmjax.interop.formats import choice, inverted
from mmjax.nn.mlp import Activation

TRANSFORMER = {"act_kwargs": None, "norm_kwargs": None, "block_type": None, "qk_norm": False, "mlp_ratio": 4.0}
"""Of both towers, with open_clip's defaults."""
IMAGE = TRANSFORMER | {
    "layers": 12,
    "width": 768,
    "head_width": 64,
    "patch_size": 16,
    "image_size": 224,
    "no_ln_pre": False,
    "pool_type": "tok",
    "timm_model_name": None,
    "timm_pool": "avg",
    "timm_proj": "linear",
    "timm_proj_bias": False,
}
TEXT = TRANSFORMER | {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "no_causal_mask": False,
    "pool_type": "argmax",
    "eos_id": 2,
    "proj_type": "linear",
    "proj_bias": False,
}
MODEL = {"quick_gelu": False, "init_logit_scale": 2.6592600369327783, "init_logit_bias": None}

MISSING_LAYERS = {
    "ls_init_value": None,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "attentional_pool": False,
    "embed_cls": False,
    "hf_model_name": None,
    "multimodal_cfg": None,
}
"""Layers that we do not have, and the values that leave them out."""
WITHOUT_EFFECT = (
    "patch_dropout",
    "attn_pooler_queries",
    "attn_pooler_heads",
    "pos_embed_type",  # Fixed positions are stored as learned ones are.
    "final_ln_after_pool",  # The same where a single token is taken, and in a text tower not read at all.
    "output_tokens",
    "timm_model_pretrained",
    "timm_drop",
    "timm_drop_path",
    "hf_tokenizer_name",
    "tokenizer_mode",
    "tokenizer_kwargs",
    "pad_id",
    "hf_model_pretrained",
    "hf_proj_type",
    "hf_pooler_type",
    "custom_text",
    "nonscalar_logit_scale",
)
"""What does not change the features of a trained model whose other fields we take."""

NORM_EPS = 1e-5
"""Of `torch.nn.LayerNorm`."""
APPROXIMATIONS: dict[str, Activation] = {"none": "gelu", "tanh": "gelu_tanh"}
"""Of `torch.nn.GELU`."""


def completed(values: Mapping[str, Any], defaults: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The fields of `defaults` with the values that a config gives.

    Raises:
        UserError: it has a field that is not known, or one that switches on a layer that we do not have.
    """
    known = (*defaults, *MISSING_LAYERS, *WITHOUT_EFFECT)
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{place}.{name} is no field of open_clip 3: {suggestion(name, known)}")
        if name in MISSING_LAYERS and value != MISSING_LAYERS[name]:
            raise UserError(f"{place}.{name} = {value!r} has no counterpart here: choose another checkpoint")
    return {**defaults, **{name: value for name, value in values.items() if name in defaults}}


def transformer_fields(config: Mapping[str, Any], quick_gelu: bool) -> dict[str, Any]:
    """Fields of our towers that a completed config of either of open_clip's towers decides."""
    norm, activation = dict(config["norm_kwargs"] or {}), dict(config["act_kwargs"] or {})
    eps, approximate = norm.pop("eps", NORM_EPS), activation.pop("approximate", "none")
    if norm or activation:
        named = ", ".join((*norm, *activation))
        raise UserError(f"norm_kwargs or act_kwargs has {named}, which we have no layer for: choose another checkpoint")
    return {
        "width": config["width"],
        "depth": config["layers"],
        "mlp_dim": int(config["width"] * config["mlp_ratio"]),
        "norm_eps": eps,
        "activation": "quick_gelu" if quick_gelu else choice("act_kwargs.approximate", approximate, APPROXIMATIONS),
        # Its plain block leaves the field unread.
        "qk_norm": config["qk_norm"] and config["block_type"] != "default",
    }


def written_transformer(tower: Any, quick_gelu: bool) -> dict[str, Any]:
    """The inverse of `transformer_fields`; an activation that it does not know comes back as "gelu"."""
    approximate = inverted(APPROXIMATIONS).get(tower.activation, "none")
    return {
        "width": tower.width,
        "layers": tower.depth,
        "mlp_ratio": _mlp_ratio(tower.width, tower.mlp_dim),
        "norm_kwargs": {"eps": tower.norm_eps},
        **({"act_kwargs": {"approximate": "tanh"}} if approximate == "tanh" and not quick_gelu else {}),
        **({"qk_norm": True} if tower.qk_norm else {}),
    }


def _mlp_ratio(width: int, mlp_dim: int) -> float:
    """A ratio of which int(width * ratio) is `mlp_dim`: where rounding is in the way, half a unit more."""
    ratio = mlp_dim / width
    return ratio if int(width * ratio) == mlp_dim else (mlp_dim + 0.5) / width
