"""Bytes from strangers to images."""

import base64
import binascii
import io
import struct

from PIL import Image, ImageOps, UnidentifiedImageError

from mmjax.serving.limits import Limits, Refused

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What browsers and cameras send; others (EPS starts Ghostscript) are not even tried."""
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, ZeroDivisionError, struct.error)
"""What Pillow's decoders raise on damaged files."""


def from_base64(text: str, what: str = "an image") -> bytes:
    """The bytes of a base64 string, which is `what`.

    Raises:
        Refused: (422) it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(422, "base64", f"{what} is not base64: {error}") from error


def open_image(data: bytes, limits: Limits) -> Image.Image:
    """The first picture of an encoded image, upright and decoded whole.

    Raises:
        Refused: it is no image of a known format (415), has too many pixels (413), or is damaged or too thin (422).
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image.width, image.height, limits)
        return ImageOps.exif_transpose(image)
    except BOMBS as error:
        raise _too_many_pixels(limits) from error
    except UnidentifiedImageError as error:
        raise Refused(415, "not_an_image", f"not an image in {', '.join(FORMATS)}") from error
    except DAMAGE as error:
        raise Refused(422, "damaged_image", "an image is damaged and cannot be decoded") from error


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise _too_many_pixels(limits)
    if max(width, height) > limits.aspect * min(width, height):
        raise Refused(422, "thin_image", f"an image of {width} x {height} is thinner than 1:{limits.aspect}")


def _too_many_pixels(limits: Limits) -> Refused:
    return Refused(413, "too_many_pixels", f"an image has more than {limits.pixels} pixels: send a smaller one")
