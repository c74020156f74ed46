"""open_clip's own towers: `VisionTransformer` with a class token, and `TextTransformer`."""

from collections.abc import Mapping
from typing import Any

from mmjax.errors import UserError
from mmjax.interop.formats import choice
from mmjax.interop.huggingface.layers import fused_attention, linear, norm
from mmjax.interop.layouts import PATCHES, SAME, table
from mmjax.interop.mapping import Row, Table, placed
from mmjax.interop.open_clip.fields import transformer_fields, written_transformer
from mmjax.models.dual_encoder import Projection
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig

LAYER: Table = (
    *norm("attention_norm", "ln_1"),
    *fused_attention("attention", "attn"),
    *norm("mlp_norm", "ln_2"),
    *linear("mlp/up", "mlp.c_fc"),
    *linear("mlp/down", "mlp.c_proj"),
)
QK_NORM: Table = (*norm("attention/query_norm", "attn.ln_q"), *norm("attention/key_norm", "attn.ln_k"))

ARGMAX, EOS = "argmax", "eos"
"""How a text tower finds the end of text: the largest id, or the first `eos_id`."""


def _blocks(qk_norm: bool) -> Table:
    return placed((*LAYER, *(QK_NORM if qk_norm else ())), "blocks/", "transformer.resblocks.{l}.")


def image_rows(image: ViTConfig) -> Table:
    return (
        Row("stem/projection/kernel", "conv1.weight", PATCHES),
        Row("class_token", "class_embedding", SAME),
        Row("positions", "positional_embedding", SAME),
        *(norm("embedding_norm", "ln_pre") if image.embedding_norm else ()),
        *_blocks(image.qk_norm),
        *norm("final_norm", "ln_post"),
    )


def read_image(config: Mapping[str, Any], quick_gelu: bool) -> ViTConfig:
    """Our image tower.

    Raises:
        UserError: it is a ResNet, has patches that are no squares, or averages over tokens that see a class token.
    """
    if not isinstance(config["layers"], int) or not isinstance(config["patch_size"], int):
        raise UserError("vision_cfg is of a ResNet or of patches that are no squares: choose a checkpoint of a ViT")
    choice("vision_cfg.pool_type", config["pool_type"], {"tok": "cls"})
    height, width = image_shape(config)
    return ViTConfig(
        **transformer_fields(config, quick_gelu),
        num_heads=config["width"] // config["head_width"],
        image_size=height,
        image_width=None if width == height else width,
        patch_size=config["patch_size"],
        pool="cls",
        patch_bias=False,
        embedding_norm=not config["no_ln_pre"],
    )


def image_shape(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of pixels."""
    size = config["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def written_image(image: ViTConfig, quick_gelu: bool) -> dict[str, Any]:
    height, width = image.image_shape
    return {
        **written_transformer(image, quick_gelu),
        "head_width": image.width // image.num_heads,
        "image_size": height if height == width else [height, width],
        "patch_size": image.patch_size,
        **({} if image.embedding_norm else {"no_ln_pre": True}),
    }


def text_rows(text: TextConfig, projection: Projection) -> Table:
    """The text tower with its projection, which open_clip stores with the tower."""
    tower = (
        Row("tokens/table", "token_embedding.weight", table(text.vocab_size)),
        Row("positions", "positional_embedding", SAME),
        *_blocks(text.qk_norm),
        *norm("final_norm", "ln_final"),
    )
    heads: dict[Projection, Table] = {
        "none": (),
        # Multiplied from the right, as ours is.
        "linear": (Row("text_projection/kernel", "text_projection", SAME),),
        "biased": linear("text_projection", "text_projection"),
    }
    return (*placed(tower, "text/", ""), *heads[projection])


def read_text(config: Mapping[str, Any], quick_gelu: bool) -> TextConfig:
    pools = {ARGMAX: "eot", EOS: "eot", "last": "last", "first": "first"}
    return TextConfig(
        **transformer_fields(config, quick_gelu),
        num_heads=config["heads"],
        vocab_size=config["vocab_size"],
        context_len=config["context_length"],
        causal=not config["no_causal_mask"],
        pool=choice("text_cfg.pool_type", config["pool_type"], pools),
        eos_id=config["eos_id"] if config["pool_type"] == EOS else None,
    )


def text_projection(config: Mapping[str, Any]) -> Projection:
    if config["proj_type"] == "none":
        return "none"
    return "biased" if config["proj_bias"] else "linear"


def written_text(text: TextConfig, projection: Projection, quick_gelu: bool) -> dict[str, Any]:
    """The inverse of `read_text` and `text_projection`; a pool that open_clip does not know comes back as "last"."""
    pools = {"eot": ARGMAX if text.eos_id is None else EOS, "first": "first"}
    return {
        **written_transformer(text, quick_gelu),
        "heads": text.num_heads,
        "vocab_size": text.vocab_size,
        "context_length": text.context_len,
        "no_causal_mask": not text.causal,
        "pool_type": pools.get(text.pool, "last"),
        **({} if text.eos_id is None else {"eos_id": text.eos_id}),
        "proj_type": "none" if projection == "none" else "linear",
        "proj_bias": projection == "biased",
    }
