"""Configs of open_clip models at shapes that are nothing special: data, which no library is needed to read."""

from collections.abc import Mapping
from typing import Any

VOCAB_SIZE, TEXT_LEN, EOS_ID = 70, 9, 69

TEXT = {"context_length": TEXT_LEN, "vocab_size": VOCAB_SIZE, "width": 20, "heads": 5, "layers": 1, "mlp_ratio": 1.4}
VISION = {"layers": 2, "width": 36, "head_width": 12, "mlp_ratio": 50.5 / 36, "patch_size": 8, "image_size": 24}
SHORTEST: dict[str, Any] = {}
"""What is left to the defaults."""
SQUASH = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "squash"}


def model(
    vision: dict[str, Any], text: dict[str, Any], preprocess: Mapping[str, Any] = SHORTEST, **joint: Any
) -> dict[str, Any]:
    """What stands in `open_clip_config.json`."""
    joint = {"embed_dim": 12, **joint}
    cfg = {**joint, "vision_cfg": {**VISION, **vision}, "text_cfg": {**TEXT, **text}}
    return {"model_cfg": cfg, "preprocess_cfg": preprocess}


def siglip(name: str, pool: str, **vision: Any) -> dict[str, Any]:
    tower = {"image_size": 256, "timm_model_name": name, "timm_pool": pool, "timm_proj": "none", **vision}
    text = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6}}
    cfg = {
        "embed_dim": 768,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": tower,
        "text_cfg": {**TEXT, "act_kwargs": {"approximate": "tanh"}, **text},
    }
    return {"model_cfg": cfg, "preprocess_cfg": SQUASH}


EOS = {"pool_type": "eos", "eos_id": EOS_ID}
TANH = {"act_kwargs": {"approximate": "tanh"}}

MODELS = {
    "clip": model({}, {}, quick_gelu=True),
    "custom-text": model({"image_size": [16, 24], "qk_norm": True}, EOS | TANH, SQUASH, custom_text=True),
    "sigmoid": model(
        TANH | {"no_ln_pre": True, "norm_kwargs": {"eps": 1e-3}, "final_ln_after_pool": True},
        {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "qk_norm": True},
        init_logit_bias=-3.0,
        nonscalar_logit_scale=True,
    ),
    "unprojected": model(
        {"pos_embed_type": "sin_cos_2d", "image_size": 20, "patch_size": 7},
        {"pool_type": "first", "no_causal_mask": True, "proj_type": "none"},
        embed_dim=20,
    ),
    "siglip": siglip("vit_base_patch32_siglip_256", "map"),
    "siglip-gap": siglip("vit_base_patch32_siglip_gap_256", "avg", timm_proj="linear", timm_proj_bias=True),
}
