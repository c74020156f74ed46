"""Image towers that open_clip takes from timm: SigLIP's. Their sizes are fixed, by name.

Sizes, activations and image sizes as timm 1.0.31 registers them (`timm.models.vision_transformer`). The weights of
SigLIP were trained with the tanh approximation of GELU everywhere; timm computes some of the towers with the exact one.
"""

from collections.abc import Mapping
from typing import Any, Literal

from mmjax.errors import UserError
from mmjax.interop.formats import choice
from mmjax.interop.huggingface.layers import linear, norm
from mmjax.interop.layouts import LINEAR, PATCHES, SAME, fused, reshaped
from mmjax.interop.mapping import Row, Table, placed
from mmjax.interop.open_clip.towers import image_shape
from mmjax.models.dual_encoder import Projection
from mmjax.models.vit import ViTConfig
from mmjax.nn.mlp import Activation

SIZES: dict[str, dict[str, Any]] = {
    "base": {"width": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072},
    "large": {"width": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096},
    "so400m": {"width": 1152, "depth": 27, "num_heads": 16, "mlp_dim": 4304},
    "giantopt": {"width": 1536, "depth": 40, "num_heads": 16, "mlp_dim": 6144},
}

SHAPES: tuple[tuple[str, int, Activation, tuple[int, ...], tuple[int, ...]], ...] = (
    ("base", 32, "gelu_tanh", (256,), (256,)),
    ("base", 16, "gelu", (224, 256, 384, 512), (224, 256, 384, 512)),
    ("large", 16, "gelu", (256, 384), (256, 384)),
    ("large", 16, "gelu_tanh", (512,), (512,)),
    ("so400m", 14, "gelu", (224, 378, 384), (224, 378, 384, 448, 896)),
    ("so400m", 16, "gelu_tanh", (256, 384, 512), (256, 384, 512)),
    ("giantopt", 16, "gelu_tanh", (256, 384), (256, 384)),
)
"""Size, patch size, activation, and the image sizes with attention pooling and with mean pooling."""

POOLS: dict[Literal["map", "mean"], str] = {"map": "map", "mean": "avg"}
"""Our pools by timm's names."""


def _tower(size: str, patch_size: int, activation: Activation, image_size: int, pool: Any) -> ViTConfig:
    return ViTConfig(
        **SIZES[size], patch_size=patch_size, activation=activation, image_size=image_size, pool=pool, norm_eps=1e-6
    )


TOWERS: dict[str, ViTConfig] = {
    f"vit_{size}_patch{patch_size}_siglip_{infix}{image_size}": _tower(size, patch_size, activation, image_size, pool)
    for size, patch_size, activation, *sizes in SHAPES
    for (infix, pool), image_sizes in zip((("", "map"), ("gap_", "mean")), sizes, strict=True)
    for image_size in image_sizes
}
"""timm's towers by name."""

LAYER: Table = (
    *norm("attention_norm", "norm1"),
    Row(tuple(f"attention/{name}/kernel" for name in ("query", "key", "value")), "attn.qkv.weight", fused(LINEAR)),
    Row(tuple(f"attention/{name}/bias" for name in ("query", "key", "value")), "attn.qkv.bias", fused(SAME)),
    *linear("attention/out", "attn.proj"),
    *norm("mlp_norm", "norm2"),
    *linear("mlp/up", "mlp.fc1"),
    *linear("mlp/down", "mlp.fc2"),
)

TRUNK: Table = (
    Row("stem/projection/kernel", "patch_embed.proj.weight", PATCHES),
    Row("stem/projection/bias", "patch_embed.proj.bias", SAME),
    Row("positions", "pos_embed", reshaped(1)),
    *placed(LAYER, "blocks/", "blocks.{l}."),
    *norm("final_norm", "norm"),
)

MAP_POOL: Table = (
    Row("probe", "latent", reshaped(1)),
    *linear("attention/query", "q"),
    Row(("attention/key/kernel", "attention/value/kernel"), "kv.weight", fused(LINEAR)),
    Row(("attention/key/bias", "attention/value/bias"), "kv.bias", fused(SAME)),
    *linear("attention/out", "proj"),
    *norm("norm", "norm"),
    *linear("mlp/up", "mlp.fc1"),
    *linear("mlp/down", "mlp.fc2"),
)


def image_rows(image: ViTConfig) -> Table:
    return (*TRUNK, *(placed(MAP_POOL, "pool/", "attn_pool.") if image.pool == "map" else ()))


def projection_rows(projection: Projection) -> Table:
    rows = linear("image_projection", "head.proj")
    return {"none": (), "linear": rows[:1], "biased": rows}[projection]


def read_image(config: Mapping[str, Any]) -> ViTConfig:
    """The tower of that name.

    Raises:
        UserError: it is another one of timm's, or is pooled in another way than its name says.
    """
    image = choice("vision_cfg.timm_model_name", config["timm_model_name"], TOWERS)
    pools = {timm: ours for ours, timm in POOLS.items() if ours == image.pool}
    choice("vision_cfg.timm_pool", config["timm_pool"], pools)
    choice("vision_cfg.image_size", image_shape(config), {image.image_shape: None})
    return image


def image_projection(config: Mapping[str, Any]) -> Projection:
    biased: Projection = "biased" if config["timm_proj_bias"] else "linear"
    return choice("vision_cfg.timm_proj", config["timm_proj"], {"none": "none", "linear": biased})


def written_image(image: ViTConfig, projection: Projection) -> dict[str, Any]:
    """The config of timm's tower of the sizes of `image`.

    Raises:
        UserError: there is none.
    """
    name = min(TOWERS, key=lambda name: len(_differing(TOWERS[name], image)))
    differing = _differing(TOWERS[name], image)
    if differing:
        shown = ", ".join(f"{field}={getattr(TOWERS[name], field)!r}" for field in differing)
        raise UserError(f"this image tower, which is none of timm's (the nearest, {name}, has {shown})")
    return {
        "image_size": image.image_size,
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": POOLS["map" if image.pool == "map" else "mean"],
        "timm_proj": "none" if projection == "none" else "linear",
        "timm_proj_bias": projection == "biased",
    }


def _differing(a: ViTConfig, b: Any) -> list[str]:
    """The fields that a tower's name decides and in which the two differ."""
    fields = ("width", "depth", "num_heads", "mlp_dim", "patch_size", "activation", "image_size", "pool")
    return [field for field in fields if getattr(a, field) != getattr(b, field, None)]
