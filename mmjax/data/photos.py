"""Photos of which a part is wanted, decoded for that part alone and scaled by OpenCV.

Pillow decodes the whole photo at its size and scales with filters as wide as the scale asks for. Of JPEGs libjpeg-turbo
halves the photo as often as the part stays larger than what is wanted, in the frequencies that it is stored as
(1/2, 1/4, 1/8: the scales that it has fast code for), with its fast transform, and with colours that are not smoothed:
1.3 levels of 255 from the exact ones. PNG and WebP have no such scales: OpenCV decodes them whole, to the same pixels
as Pillow, and halves the part by the mean. Bilinear scaling does the rest, which is less than a factor of two. It takes
half of Pillow's time, of PNG and WebP two thirds (`benchmarks/data.py`, `benchmarks/decoders.py`).
"""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.data import preprocess
from mmjax.data.optional import imported
from mmjax.data.photo_headers import Photo

FACTORS = (8, 4, 2)
_buffers = threading.local()
"""One for the pixels of each thread: the kernel clears the pages of a new one."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the photo."""


def cut(photo: Photo, box: Box, out: np.ndarray) -> None:
    """Fills `out`, uint8 (rows, columns, 3), with the part of the photo in `box`.

    Raises:
        BadRecord: it cannot be decoded whole.
    """
    cv2, _ = libraries()
    rows, columns = out.shape[:2]
    factor = _factor(box, rows, columns)
    part = _part_of_jpeg(photo, box, factor) if photo.kind == "jpeg" else _part_of_other(photo, box, factor)
    cv2.resize(part, (columns, rows), dst=out, interpolation=cv2.INTER_LINEAR)


def _part_of_jpeg(photo: Photo, box: Box, factor: int) -> np.ndarray:
    pixels, factor = _decode(photo, factor)
    return _inside(pixels, tuple(edge / factor for edge in box))


def _part_of_other(photo: Photo, box: Box, factor: int) -> np.ndarray:
    cv2, _ = libraries()
    pixels = cv2.imdecode(np.frombuffer(photo.encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    # What it refuses, Pillow does too, or knows better.
    part = _inside(np.asarray(preprocess.decode(photo.encoded)) if pixels is None else pixels, box)
    if factor == 1:
        return part
    size = tuple(max(1, round(side / factor)) for side in (part.shape[1], part.shape[0]))
    halved: np.ndarray = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    return halved


def _inside(pixels: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The part of the pixels in the box."""
    left, right = _whole(box[0], box[2], pixels.shape[1])
    top, bottom = _whole(box[1], box[3], pixels.shape[0])
    return pixels[top:bottom, left:right]


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
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # What is damaged is said where it is counted.
    return cv2, simplejpeg
