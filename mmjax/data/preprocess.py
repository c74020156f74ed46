"""Encoded images to uint8 arrays of one size: the deterministic transform of evaluation, and its fingerprint."""

import dataclasses
import hashlib
import io
import json
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmjax.data.nearest import unknown_name
from mmjax.data.records import BadRecord

RESIZES = ("squash", "crop")
INTERPOLATIONS = {name.lower(): Image.Resampling[name] for name in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS")}
# Part of the fingerprint: raise it when the code below changes what comes out for the same settings.
TRANSFORM_VERSION = 1


@dataclass(frozen=True)
class PreprocessConfig:
    """How an image becomes uint8 pixels of one size; the model normalises them on the device.

    Attributes:
      image_size: side of the square, in pixels.
      resize: "squash" scales both sides to image_size (SigLIP); "crop" scales the shorter one, and cuts the middle out
        of the longer (CLIP).
      interpolation: "nearest", "bilinear", "bicubic" or "lanczos", Pillow's, with antialiasing.
    """

    image_size: int = 64
    resize: str = "squash"
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise unknown_name("data.preprocess.resize", self.resize, RESIZES)
        if self.interpolation not in INTERPOLATIONS:
            raise unknown_name("data.preprocess.interpolation", self.interpolation, INTERPOLATIONS)

    def fingerprint(self) -> str:
        """Returns a SHA-256 over all that decides the pixels; saved with a run, it makes a mismatch an error."""
        state = {**dataclasses.asdict(self), "version": TRANSFORM_VERSION}
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def decode(image: bytes | np.ndarray) -> Image.Image:
    """Returns the RGB image, transparent parts on white. Raises BadRecord when it cannot be decoded whole."""
    try:
        opened = Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(io.BytesIO(image))
        return _to_rgb(opened)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, TypeError, SyntaxError) as error:
        raise BadRecord(f"its image cannot be decoded ({error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, "white")
        canvas.alpha_composite(layer)
        return canvas.convert("RGB")
    return image.convert("RGB")


def resize(image: Image.Image, config: PreprocessConfig) -> Image.Image:
    """Returns the image at image_size x image_size."""
    size = (config.image_size, config.image_size)
    if image.size == size:
        return image
    box = _middle_square(image) if config.resize == "crop" else None
    return image.resize(size, INTERPOLATIONS[config.interpolation], box=box)


def _middle_square(image: Image.Image) -> tuple[float, float, float, float]:
    # Cutting the square out first and scaling it once is the same as scaling the shorter side and cutting then.
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return left, top, left + side, top + side


def preprocess(image: bytes | np.ndarray, config: PreprocessConfig) -> np.ndarray:
    """Returns uint8 (image_size, image_size, 3), the same for the same image and settings. Raises BadRecord."""
    return np.asarray(resize(decode(image), config))
