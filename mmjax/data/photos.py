"""JPEG photos of which a part is wanted: decoded at the scale that the part needs, and scaled by OpenCV.

Pillow decodes the whole photo at its size and scales with filters as wide as the scale asks for. Here libjpeg-turbo
halves the photo as often as the part stays larger than what is wanted, in the frequencies that it is stored as
(1/2, 1/4, 1/8: the scales that it has fast code for), with its fast transform, and with colours that are not smoothed:
1.3 levels of 255 from the exact ones. Bilinear scaling does the rest, which is less than a factor of two. All of it
takes half of Pillow's time (`benchmarks/data.py`).
"""

import functools
import io
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mmjax.data import preprocess
from mmjax.data.optional import imported

FACTORS = (8, 4, 2)
JPEG, EXIF, XMP = b"\xff\xd8", b"Exif\x00\x00", b"http://ns.adobe.com/xap/1.0/\x00"
MARKER, APP1, START_OF_SCAN = 0xFF, 0xE1, 0xDA
ORIENTATION = 0x0112
"""EXIF's number for it; 1 is upright."""
COLOURS = ("YCbCr", "RGB", "Gray")
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Past which Pillow calls it a bomb."""
_buffers = threading.local()
"""One for the pixels of each thread: the kernel clears the pages of a new one."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the photo."""


@dataclass(frozen=True)
class Photo:
    """An encoded JPEG of `width` x `height` pixels, upright and not in CMYK."""

    encoded: bytes
    width: int
    height: int


def opened(image: bytes | np.ndarray | None) -> Photo | None:
    """The photo in these bytes; None where they are no plain one, which is left to Pillow."""
    if not isinstance(image, bytes) or not image.startswith(JPEG) or _is_turned(image):
        return None
    _, simplejpeg = libraries()
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(image)
    except ValueError:
        return None
    plain = colours in COLOURS and width * height <= MOST_PIXELS
    return Photo(image, width, height) if plain else None


def _is_turned(image: bytes) -> bool:
    """Whether its EXIF data, which Pillow reads, says so."""
    if not _has_exif(image):
        return False
    try:
        return Image.open(io.BytesIO(image), formats=("JPEG",)).getexif().get(ORIENTATION, 1) != 1
    except preprocess.UNDECODABLE:
        return True


def _has_exif(image: bytes) -> bool:
    """Whether a segment before the pixels is EXIF's, or XMP's, which may say it too.

    A segment is a marker, and the length of what follows (ITU T.81, B.1).
    """
    place = len(JPEG)
    while place + 4 <= len(image) and image[place] == MARKER and image[place + 1] != START_OF_SCAN:
        if image[place + 1] == APP1 and image.startswith((EXIF, XMP), place + 4):
            return True
        place += 2 + int.from_bytes(image[place + 2 : place + 4], "big")
    # Where segments do not follow each other, Pillow may find some yet.
    return image[place : place + 1] != bytes([MARKER])


def cut(photo: Photo, box: Box, out: np.ndarray) -> None:
    """Fills `out`, uint8 (rows, columns, 3), with the part of the photo in `box`.

    Raises:
        BadRecord: it cannot be decoded whole.
    """
    cv2, _ = libraries()
    rows, columns = out.shape[:2]
    pixels, factor = _decode(photo, _factor(box, rows, columns))
    height, width = pixels.shape[:2]
    left, right = _whole(box[0] / factor, box[2] / factor, width)
    top, bottom = _whole(box[1] / factor, box[3] / factor, height)
    cv2.resize(pixels[top:bottom, left:right], (columns, rows), dst=out, interpolation=cv2.INTER_LINEAR)


def _factor(box: Box, rows: int, columns: int) -> int:
    """The most that the photo can be reduced by while the part has all the pixels that are wanted."""
    available = min((box[2] - box[0]) / columns, (box[3] - box[1]) / rows)
    return next((factor for factor in FACTORS if available >= factor), 1)


def _decode(photo: Photo, factor: int) -> tuple[np.ndarray, int]:
    """The pixels, and what they are reduced by."""
    _, simplejpeg = libraries()
    # It takes the smallest scale at which neither side is below these, and rounds sides up, as libjpeg-turbo does.
    rows, columns = -(-photo.height // factor), -(-photo.width // factor)
    buffer = _buffer(rows * columns * 3)
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            photo.encoded, min_height=rows, min_width=columns, buffer=buffer, fastdct=True, fastupsample=True
        )
        return pixels, factor
    except ValueError:
        # It refuses what Pillow is content with, such as bytes between two segments: whether it is whole Pillow says.
        return np.asarray(preprocess.decode(photo.encoded)), 1


def _buffer(num_bytes: int) -> np.ndarray:
    """This thread's, for the pixels of one photo at a time."""
    found: np.ndarray | None = getattr(_buffers, "bytes", None)
    if found is None or len(found) < num_bytes:
        found = _buffers.bytes = np.empty(num_bytes, np.uint8)
    return found


def _whole(start: float, stop: float, size: int) -> tuple[int, int]:
    """The pixels nearest to [start, stop), at least one."""
    first = min(round(start), size - 1)
    return first, max(min(round(stop), size), first + 1)


@functools.cache
def libraries() -> tuple[Any, Any]:
    """OpenCV, which uses the calling thread alone, and simplejpeg.

    Raises:
        UserError: they are not installed.
    """
    wanted_by = "data.augment.decoder = 'turbo'"
    cv2, simplejpeg = imported(wanted_by, "requirements-photos.txt", "cv2", "simplejpeg")
    cv2.setNumThreads(1)
    return cv2, simplejpeg
