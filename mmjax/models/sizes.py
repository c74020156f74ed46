"""Model sizes as data, and the published dual encoders made of them."""

from dataclasses import dataclass
from typing import Any, Literal

from mmjax.errors import UserError
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.resnet import ResNetConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig


@dataclass(frozen=True)
class Size:
    """A Transformer's shape; `**vars(size)` fits `ViTConfig` and `TextConfig`."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int


SIZES: dict[str, Size] = {
    "Ti": Size(192, 12, 768, 3),  # DeiT (Touvron et al., 2021), table 1
    "S": Size(384, 12, 1536, 6),  # DeiT, table 1
    "M": Size(512, 12, 2048, 8),  # released code of big_vision; also CLIP's text tower beside ViT-B
    "B": Size(768, 12, 3072, 12),  # ViT (Dosovitskiy et al., 2021), table 1
    "L": Size(1024, 24, 4096, 16),  # ViT, table 1
    "H": Size(1280, 32, 5120, 16),  # ViT, table 1
    "g": Size(1408, 40, 6144, 16),  # Scaling ViT (Zhai et al., 2022), table 2
    "So400m": Size(1152, 27, 4304, 16),  # SoViT (Alabdulmohsin et al., 2023), sec. 4
    "G": Size(1664, 48, 8192, 16),  # Scaling ViT, table 2
}

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels CLIP was trained on (Radford et al., 2021, released code)."""

CLIP_LOG_SCALE = 2.6592
"""log(1 / 0.07), rounded as Hugging Face has it (Radford et al., 2021, sec. 2.5)."""

CLIP_TEXT: dict[str, Size] = {"B": SIZES["M"], "L": Size(768, 12, 3072, 12)}
"""CLIP's text tower by the size of its image tower (Radford et al., 2021, table 20); its width is that of the space."""


@dataclass(frozen=True)
class ResNetSize:
    """A ResNet's shape; `**vars(size)` fits `ResNetConfig`."""

    layer: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    stage_dims: tuple[int, ...]


BASIC_DIMS, BOTTLENECK_DIMS = (64, 128, 256, 512), (256, 512, 1024, 2048)
RESNETS: dict[str, ResNetSize] = {
    "18": ResNetSize("basic", (2, 2, 2, 2), BASIC_DIMS),
    "34": ResNetSize("basic", (3, 4, 6, 3), BASIC_DIMS),
    "50": ResNetSize("bottleneck", (3, 4, 6, 3), BOTTLENECK_DIMS),
    "101": ResNetSize("bottleneck", (3, 4, 23, 3), BOTTLENECK_DIMS),
    "152": ResNetSize("bottleneck", (3, 8, 36, 3), BOTTLENECK_DIMS),
}
"""By number of layers (He et al., 2016, table 1)."""


def resnet(name: str, **choices: Any) -> ResNetConfig:
    """The ResNet of `name` layers, "50" and so on, with `choices` of `ResNetConfig`.

    Raises:
        UserError: no such model.
    """
    if name not in RESNETS:
        raise UserError(f"no ResNet has {name!r} layers: write one of {', '.join(RESNETS)}")
    return ResNetConfig(**vars(RESNETS[name]) | choices)


def bert(size: str, **choices: Any) -> TextConfig:
    """The published BERT (Devlin et al., 2019) of `size` "B" or "L", uncased, without its pooler, and with `choices` of
    `TextConfig`."""
    published = {
        "vocab_size": 30_522,
        "context_len": 512,
        "use_mask": True,
        "pool": "first",
        "num_token_types": 2,
        "norm": "post",
        "norm_eps": 1e-12,
        "embedding_norm": True,
        "final_norm": False,
        "activation": "gelu",
    }
    return TextConfig(**vars(SIZES[size]) | published | choices)


def clip(name: str) -> DualEncoderConfig:
    """The published CLIP called `name`: "B/32", "B/16", "L/14" or "L/14-336" (image size 224 where none is named).

    Raises:
        UserError: no such model.
    """
    size, patch_size, image_size = _parsed(name, CLIP_TEXT)
    image = ViTConfig(
        **vars(SIZES[size]),
        image_size=image_size,
        patch_size=patch_size,
        pool="cls",
        norm_eps=1e-5,
        embedding_norm=True,
        patch_bias=False,
        activation="quick_gelu",
        image_mean=CLIP_MEAN,
        image_std=CLIP_STD,
    )
    text = TextConfig(
        **vars(CLIP_TEXT[size]),
        vocab_size=49_408,
        context_len=77,
        causal=True,
        pool="eot",
        eos_id=49_407,
        norm_eps=1e-5,
        activation="quick_gelu",
    )
    return DualEncoderConfig(image, text, text.width, "linear", "linear", CLIP_LOG_SCALE, None)


def siglip(name: str) -> DualEncoderConfig:
    """The published SigLIP (Zhai et al., 2023) called `name`: "B/16-224", "L/16-256", "So400m/14-384" and so on.

    Raises:
        UserError: no such model.
    """
    size, patch_size, image_size = _parsed(name, SIZES)
    image = ViTConfig(**vars(SIZES[size]), image_size=image_size, patch_size=patch_size)
    return DualEncoderConfig(image, TextConfig(**vars(SIZES[size])), SIZES[size].width)


def _parsed(name: str, sizes: dict[str, Size]) -> tuple[str, int, int]:
    """Size, patch size and image size of a name such as "B/16-224"."""
    size, _, rest = name.partition("/")
    patch_size, _, image_size = rest.partition("-")
    if size not in sizes or not patch_size.isdigit() or not (image_size or "224").isdigit():
        known = ", ".join(sizes)
        raise UserError(f"no model is called {name!r}: write SIZE/PATCH or SIZE/PATCH-IMAGE, SIZE one of {known}")
    return size, int(patch_size), int(image_size or 224)
