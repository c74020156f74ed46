"""Vendor drawings to 64-pixel WebP on white, and the concepts that a vendor draws identically."""

import io
from collections import defaultdict
from collections.abc import Mapping

from PIL import Image

IMAGE_SIZE = 64
WEBP_QUALITY = 80


def flatten(encoded: bytes) -> Image.Image:
    """Returns an RGB image of IMAGE_SIZE x IMAGE_SIZE: the drawing, whole and centred, on white."""
    drawing = Image.open(io.BytesIO(encoded)).convert("RGBA")
    side = max(drawing.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    return canvas.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)


def encode(image: Image.Image) -> bytes:
    """Returns the image as lossy WebP bytes, the same for the same pixels and the same libwebp."""
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=WEBP_QUALITY, method=6)
    return buffer.getvalue()


def identical_groups(drawings: Mapping[str, bytes]) -> list[list[str]]:
    """Returns the groups of two and more keys whose values are the same bytes, in the mapping's order."""
    groups = defaultdict(list)
    for key, pixels in drawings.items():
        groups[pixels].append(key)
    return [keys for keys in groups.values() if len(keys) > 1]
