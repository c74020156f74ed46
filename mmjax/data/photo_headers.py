"""Which encoded images are plain photos: what their first bytes say, so that all others can be left to Pillow.

Plain is upright, of 8 bits a colour, without transparency, animation or CMYK, and not larger than Pillow takes.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from mmjax.data import preprocess

JPEG, EXIF, XMP = b"\xff\xd8", b"Exif\x00\x00", b"http://ns.adobe.com/xap/1.0/\x00"
MARKER, APP1, START_OF_SCAN = 0xFF, 0xE1, 0xDA
SCAN = bytes([MARKER, START_OF_SCAN])
FRAMES = (0xC0, 0xC1, 0xC2)
"""Frames of the three processes that photos have: baseline, extended and progressive, coded by Huffman."""
ORIENTATION = 0x0112
"""EXIF's number for it; 1 is upright."""
PNG, PNG_HEADER = b"\x89PNG\r\n\x1a\n", b"\x08\x02\x00\x00"
"""Before the bytes of the image: eight bits, of red, green and blue, in PNG's only compression and filtering."""
PNG_CHUNKS = (b"IHDR", b"IDAT", b"IEND", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"tIME", b"sBIT")
"""Those that say nothing of transparency, animation or turning."""
WEBP_LOSSY, WEBP_LOSSLESS = b"VP8 ", b"VP8L"
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Past which Pillow calls it a bomb."""


@dataclass(frozen=True)
class Photo:
    """A plain photo of `width` x `height` pixels, `encoded` as "jpeg", "png" or "webp"."""

    encoded: bytes
    kind: str
    width: int
    height: int


def opened(image: bytes | object) -> Photo | None:
    """The photo in these bytes; None where they are no plain one."""
    if not isinstance(image, bytes):
        return None
    if image.startswith(JPEG):
        found = _jpeg(image)
    elif image.startswith(PNG):
        found = _png(image)
    else:
        found = _webp(image)
    return found if found is not None and found.width * found.height <= MOST_PIXELS else None


def _jpeg(image: bytes) -> Photo | None:
    """By its frame header, of a gray photo or of one in three colours (ITU T.81, B.1 and B.2.2)."""
    frame, may_be_turned = 0, False
    place = len(JPEG)
    while place + 4 <= len(image) and image[place] == MARKER and image[place + 1] != START_OF_SCAN:
        size = int.from_bytes(image[place + 2 : place + 4], "big")
        if image[place + 1] in FRAMES and size >= 8 and place + 2 + size <= len(image):
            frame = place + 4
        elif image[place + 1] == APP1:
            may_be_turned = may_be_turned or image.startswith((EXIF, XMP), place + 4)
        place += 2 + size
    # Where segments do not follow each other up to the scan, Pillow may find some yet.
    if not frame or image[place : place + 2] != SCAN or image[frame] != 8 or image[frame + 5] not in (1, 3):
        return None
    height, width = (int.from_bytes(image[at : at + 2], "big") for at in (frame + 1, frame + 3))
    if not height or not width or (may_be_turned and _is_turned(image)):
        return None
    return Photo(image, "jpeg", width, height)


def _is_turned(image: bytes) -> bool:
    """Whether the EXIF data of a JPEG, which Pillow reads, says so."""
    try:
        return Image.open(io.BytesIO(image), formats=("JPEG",)).getexif().get(ORIENTATION, 1) != 1
    except preprocess.UNDECODABLE:
        return True


def _png(image: bytes) -> Photo | None:
    """By its header, and the names of its chunks (PNG, third edition, 5.3 and 11.2.1)."""
    plain = (
        image[12:16] == b"IHDR" and image[24:28] == PNG_HEADER and all(kind in PNG_CHUNKS for kind in _chunks(image))
    )
    return (
        Photo(image, "png", int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")) if plain else None
    )


def _chunks(image: bytes) -> Iterator[bytes]:
    place = len(PNG)
    while place + 8 <= len(image):
        yield image[place + 4 : place + 8]
        place += 12 + int.from_bytes(image[place : place + 4], "big")


def _webp(image: bytes) -> Photo | None:
    """Of the simple file formats (RFC 9649, 2.5 and 2.6); the extended one may have more than a photo has."""
    if not (image.startswith(b"RIFF") and image[8:12] == b"WEBP") or len(image) < 30:
        return None
    if image[12:16] == WEBP_LOSSY:
        # Fourteen bits each; the other two say how it is to be enlarged, which nobody does.
        sides = (int.from_bytes(image[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        return Photo(image, "webp", *sides)
    bits = int.from_bytes(image[21:25], "little")
    has_alpha = bool(bits >> 28 & 1)
    if image[12:16] != WEBP_LOSSLESS or has_alpha:
        return None
    return Photo(image, "webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
