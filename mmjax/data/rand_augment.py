"""RandAugment: a few changes of an image, each drawn from fourteen, all of one magnitude (Cubuk et al. 2019).

Magnitudes go from 0 to 10. What they mean is table 6 of AutoAugment (Cubuk et al. 2018, arXiv 1805.09501), which the
paper takes over. At 10 an image is turned by 30 degrees, sheared by 0.3, or shifted by 0.45 of its side (150 pixels of
331); its colour, contrast, brightness or sharpness changes by 0.9 of what it is; four bits of eight are left of a
colour; all levels are inverted. Turns, shears, shifts and changes of strength go either way. Cutout and inversion are
not among the fourteen, as in the paper; `AugmentConfig` has erasing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

HIGHEST = 10.0
DEGREES, SHEAR, SHIFT, STRENGTH, BITS, LEVELS = 30.0, 0.3, 150 / 331, 0.9, 4, 256
Change = Callable[[Image.Image, float, int], Image.Image]
"""Of an image, by a share of the most it does, -1 to 1, with the gray level of what comes in from outside."""


def rand_augment(
    image: Image.Image, num_changes: int, magnitude: float, fill: int, rng: np.random.Generator
) -> Image.Image:
    """The image, of the same size, after `num_changes` drawn changes (section 3, figure 2)."""
    for drawn, sign in rng.random((num_changes, 2)).tolist():
        change = CHANGES[NAMES[int(drawn * len(NAMES))]]
        image = change(image, magnitude / HIGHEST * (1 if sign < 0.5 else -1), fill)
    return image


def _affine(image: Image.Image, x: tuple[float, float, float], y: tuple[float, float, float], fill: int) -> Image.Image:
    """Output pixel (i, j) shows what lies at (x, y) . (i, j, 1)."""
    return image.transform(
        image.size, Image.Transform.AFFINE, (*x, *y), Image.Resampling.BILINEAR, fillcolor=(fill, fill, fill)
    )


def _shear_x(image: Image.Image, share: float, fill: int) -> Image.Image:
    # About the middle row, which stays where it is.
    return _affine(image, (1, SHEAR * share, -SHEAR * share * image.height / 2), (0, 1, 0), fill)


def _shear_y(image: Image.Image, share: float, fill: int) -> Image.Image:
    return _affine(image, (1, 0, 0), (SHEAR * share, 1, -SHEAR * share * image.width / 2), fill)


def _translate_x(image: Image.Image, share: float, fill: int) -> Image.Image:
    return _affine(image, (1, 0, SHIFT * share * image.width), (0, 1, 0), fill)


def _translate_y(image: Image.Image, share: float, fill: int) -> Image.Image:
    return _affine(image, (1, 0, 0), (0, 1, SHIFT * share * image.height), fill)


def _rotate(image: Image.Image, share: float, fill: int) -> Image.Image:
    return image.rotate(DEGREES * share, Image.Resampling.BILINEAR, fillcolor=(fill, fill, fill))


def _enhanced(of: Callable[[Image.Image], Any]) -> Change:
    def change(image: Image.Image, share: float, fill: int) -> Image.Image:
        changed: Image.Image = of(image).enhance(1 + STRENGTH * share)
        return changed

    return change


def _posterize(image: Image.Image, share: float, fill: int) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(BITS * abs(share)))


def _solarize(image: Image.Image, share: float, fill: int) -> Image.Image:
    return ImageOps.solarize(image, round(LEVELS * (1 - abs(share))))


CHANGES: Mapping[str, Change] = {
    "identity": lambda image, share, fill: image,
    "auto_contrast": lambda image, share, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, share, fill: ImageOps.equalize(image),
    "rotate": _rotate,
    "solarize": _solarize,
    "colour": _enhanced(ImageEnhance.Color),
    "posterize": _posterize,
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
NAMES = tuple(CHANGES)
