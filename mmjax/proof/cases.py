"""Inputs that go wrong where two pipelines differ: image files of every kind, and texts."""

from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
"""The EXIF tag; 6 says that the picture lies on its left side."""

TEXTS = (
    "",
    "a photo of two dogs on a beach",
    "😀 emoji 🏳️‍🌈 and 👩🏽‍🚀",
    "一只猫坐在垫子上",
    "word " * 500,
    "trailing spaces   ",
    "  leading spaces",
    "CAPITALS and MiXeD",
    "tabs\tand\nnew lines",
    "naïve café, “quoted” — it’s",
)


def write_images(folder: Path) -> tuple[str, ...]:
    """Writes the cases, the same bytes each time with the same Pillow, and returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    photo = picture(97, 131)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    photo.save(folder / "photo.jpg", quality=90)
    photo.save(folder / "photo.png")
    photo.save(folder / "photo.webp", quality=80)
    photo.save(folder / "turned.jpg", exif=turned)
    photo.convert("L").save(folder / "grey.png")
    _see_through(photo).save(folder / "transparent.png")
    _see_through(photo).save(folder / "transparent.webp", lossless=True)
    _keyed(photo).save(folder / "palette.png", transparency=0)
    picture(211, 5).save(folder / "tall.png")
    picture(6, 333).save(folder / "wide.png")
    picture(3, 4).save(folder / "tiny.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    return tuple(sorted(path.name for path in folder.iterdir()))


def picture(height: int, width: int) -> Image.Image:
    """A picture with smooth parts, edges and noise, always the same for its size."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (5 + 2 * c)) + np.cos(y / (7 - c)) + (x > y) for c in range(3)]
    noise = np.random.default_rng(height * 1000 + width).normal(scale=0.2, size=(height, width, 3))
    values = (np.stack(waves, axis=-1) + noise + 2) / 5
    return Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8))


def _see_through(image: Image.Image) -> Image.Image:
    """The picture, fading out towards the right."""
    alpha = np.linspace(255, 0, image.width).astype(np.uint8)
    faded = image.convert("RGBA")
    faded.putalpha(Image.fromarray(np.broadcast_to(alpha, (image.height, image.width)).copy()))
    return faded


def _keyed(image: Image.Image) -> Image.Image:
    """The picture in few colours, to be saved with colour 0 see-through."""
    return image.quantize(16)
