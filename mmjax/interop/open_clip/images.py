"""The preprocessing of images as open_clip has it."""

from collections.abc import Mapping
from typing import Any

from mmjax.data.preprocess import PreprocessConfig
from mmjax.errors import UserError
from mmjax.interop.formats import choice, inverted
from mmjax.models.vit import ViTConfig

RESIZES = {"shortest": "crop", "squash": "squash"}
INTERPOLATIONS = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}
DEFAULTS = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
"""Those of OpenAI's CLIP."""


def written(preprocess: PreprocessConfig, image: ViTConfig) -> dict[str, Any]:
    """The config of a transform; an interpolation that it does not know comes back as "bicubic"."""
    return {
        "mean": list(image.image_mean),
        "std": list(image.image_std),
        "interpolation": inverted(INTERPOLATIONS).get(preprocess.interpolation, "bicubic"),
        "resize_mode": inverted(RESIZES)[preprocess.resize],
    }


def read(config: Mapping[str, Any], image_shape: tuple[int, int]) -> tuple[PreprocessConfig, dict[str, Any]]:
    """The preprocessing to the image size of the model, and the fields of the tower that say the normalisation.

    Raises:
        UserError: it fits the longer side, or cuts something else than a square.
    """
    config = {**DEFAULTS, **{name: value for name, value in config.items() if value is not None}}
    resize = choice("preprocess_cfg.resize_mode", config["resize_mode"], RESIZES)
    height, width = image_shape
    if resize == "crop" and height != width:
        raise UserError(
            f"preprocess_cfg.resize_mode = 'shortest' cuts {height} x {width} pixels, and data.preprocess squares "
            "alone: take the weights alone, through config.init"
        )
    interpolation = choice("preprocess_cfg.interpolation", config["interpolation"], INTERPOLATIONS)
    preprocess = PreprocessConfig(height, resize, interpolation, **({} if height == width else {"image_width": width}))
    return preprocess, {"image_mean": _three(config["mean"]), "image_std": _three(config["std"])}


def _three(value: Any) -> tuple[float, ...]:
    """One number a colour."""
    return tuple(value) if isinstance(value, list | tuple) else (value,) * 3
