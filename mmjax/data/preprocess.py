"""Encoded images to uint8 arrays of one size: the deterministic transform of evaluation, and its fingerprint."""

import dataclasses
import hashlib
import io
import json
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmjax.data.nearest import unknown_name
from mmjax.data.records import BadRecord
from mmjax.errors import UserError

RESIZES = ("squash", "crop")
INTERPOLATIONS = {name.lower(): Image.Resampling[name] for name in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS")}
# Part of the fingerprint: raise it when the code below changes what comes out for the same settings.
TRANSFORM_VERSION = 2
MOST_PIXELS = 2**26
"""Of an image whose shorter side is scaled and whose longer one is not yet cut: 256 MiB, as Pillow keeps RGB."""

UNDECODABLE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    struct.error,
)
"""What Pillow raises on files that are no images or damaged; the last of them on EXIF data."""


@dataclass(frozen=True)
class PreprocessConfig:
    """How an image becomes uint8 pixels of one size; the model normalises them on the device.

    Attributes:
      image_size: rows, in pixels.
      resize: "squash" scales both sides (SigLIP); "crop" scales the shorter one to image_size, and cuts the middle out
        of the longer (CLIP), for squares alone.
      interpolation: "nearest", "bilinear", "bicubic" or "lanczos", Pillow's, with antialiasing.
      image_width: columns; None is as many as rows.
    """

    image_size: int = 64
    resize: str = "squash"
    interpolation: str = "bicubic"
    image_width: int | None = None

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise unknown_name("data.preprocess.resize", self.resize, RESIZES)
        if self.resize == "crop" and self.image_width not in (None, self.image_size):
            raise UserError(
                f"data.preprocess.resize = 'crop' cuts a square, but image_width = {self.image_width} is not "
                f"image_size {self.image_size}: leave it out, or set resize to 'squash'"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise unknown_name("data.preprocess.interpolation", self.interpolation, INTERPOLATIONS)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of pixels."""
        return self.image_size, self.image_size if self.image_width is None else self.image_width

    def fingerprint(self) -> str:
        """Returns a SHA-256 over all that decides the pixels; saved with a run, it makes a mismatch an error."""
        state = {**dataclasses.asdict(self), "image_width": self.image_shape[1], "version": TRANSFORM_VERSION}
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def decode(image: bytes | np.ndarray | None) -> Image.Image:
    """Returns the RGB image, upright, transparent parts on white. Raises BadRecord when it cannot be decoded whole."""
    if image is None:
        raise BadRecord("it has no image")
    try:
        opened = Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(io.BytesIO(image))
        ImageOps.exif_transpose(opened, in_place=True)
        return _to_rgb(opened)
    except UNDECODABLE as error:
        raise BadRecord(f"its image cannot be decoded ({error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, "white")
        canvas.alpha_composite(layer)
        return canvas.convert("RGB")
    return image.convert("RGB")


def resize(image: Image.Image, config: PreprocessConfig) -> Image.Image:
    """Returns the image with the rows and columns of the config.

    Pixel for pixel the same as `SiglipImageProcessor` ("squash") and `CLIPImageProcessor` ("crop") of Hugging Face on
    Pillow; but for images so long and thin that cutting them after they are scaled would take more than `MOST_PIXELS`.
    """
    rows, columns = config.image_shape
    # Scaling to its own size leaves an image as it is, and so does cutting a square out of one that is square.
    if image.size == (columns, rows):
        return image
    resampling = INTERPOLATIONS[config.interpolation]
    if config.resize == "crop":
        return _scale_and_cut(image, rows, resampling)
    return image.resize((columns, rows), resampling)


def _scale_and_cut(image: Image.Image, side: int, resampling: Image.Resampling) -> Image.Image:
    """The shorter side scaled to `side`, the longer one in proportion, rounded down; then its middle."""
    image = _bounded(image, side)
    short = min(image.size)
    width, height = (int(side * length / short) for length in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    # Pillow scales columns first and rows then, rounding in between: to cut in between changes nothing but the work.
    # Cutting first (its `box`) would be less work yet, but shifts what each pixel sees by a rounding of float32.
    image = image.resize((width, image.height), resampling).crop((left, 0, left + side, image.height))
    return image.resize((side, height), resampling).crop((0, top, side, top + side))


def _bounded(image: Image.Image, side: int) -> Image.Image:
    """The middle of the longer side, where all of it, scaled, would have more than `MOST_PIXELS`."""
    longest = min(image.size) * max(MOST_PIXELS // side**2, 1)
    width, height = (min(length, longest) for length in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image if image.size == (width, height) else image.crop((left, top, left + width, top + height))


def preprocess(image: bytes | np.ndarray | None, config: PreprocessConfig) -> np.ndarray:
    """Returns uint8 (rows, columns, 3), the same for the same image and settings. Raises BadRecord."""
    return np.asarray(resize(decode(image), config))
