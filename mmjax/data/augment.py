"""Random changes to training images, every draw a function of (seed, position of the example in the run)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

Range = tuple[float, float]
Draws = Sequence[float]
# Rec. 601 luma, which is also what Pillow's "L" mode uses.
LUMA = (0.299, 0.587, 0.114)
MIDDLE_GRAY = 128.0


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges of the random changes; the defaults change nothing.

    Attributes:
      crop_area: range of the share of the original image that is cut out and resized, for photos; (1, 1) is the whole.
      crop_ratio: range of the cut's width / height.
      rotate_degrees, shear_degrees: largest angle, either way.
      zoom: range of the factor of size.
      translate: largest shift, either way, as a share of the side.
      flip_rate: probability of a left-right flip. Zero by default: captions say "left", letters have a direction.
      brightness, contrast, saturation: largest relative change, either way (0.2: factors from 0.8 to 1.2).
      hue_degrees: largest rotation about the gray axis, either way.
      gray_rate: probability of a gray image.
      blur_rate, blur_radius: probability, and range of the Gaussian's radius in pixels.
      erase_rate, erase_area: probability of a rectangle of one random colour, and range of its share of the image.
      fill: gray level, 0 to 255, of what comes in from outside the image (emoji are drawn on white).
    """

    crop_area: Range = (1.0, 1.0)
    crop_ratio: Range = (3 / 4, 4 / 3)
    rotate_degrees: float = 0.0
    shear_degrees: float = 0.0
    zoom: Range = (1.0, 1.0)
    translate: float = 0.0
    flip_rate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue_degrees: float = 0.0
    gray_rate: float = 0.0
    blur_rate: float = 0.0
    blur_radius: Range = (0.3, 1.0)
    erase_rate: float = 0.0
    erase_area: Range = (0.02, 0.2)
    fill: int = 255

    @property
    def crops(self) -> bool:
        """Whether the original image is needed, and not only its resized form."""
        return self.crop_area != (1.0, 1.0)


def generator(seed: int, position: int) -> np.random.Generator:
    """Returns the random numbers of one example: the same for (seed, position) whatever process or thread asks."""
    return np.random.default_rng([seed, position])


def random_crop(
    image: Image.Image, size: int, config: AugmentConfig, rng: np.random.Generator, width: int | None = None
) -> Image.Image:
    """Returns a random part of the image with `size` rows and `width` columns, or as many as rows (RandomResizedCrop:
    Szegedy et al. 2015, section 6)."""
    area = rng.uniform(*config.crop_area) * image.width * image.height
    ratio = math.exp(rng.uniform(math.log(config.crop_ratio[0]), math.log(config.crop_ratio[1])))
    cut_width, cut_height = min(math.sqrt(area * ratio), image.width), min(math.sqrt(area / ratio), image.height)
    left, top = rng.uniform(0, image.width - cut_width), rng.uniform(0, image.height - cut_height)
    box = (left, top, left + cut_width, top + cut_height)
    return image.resize((size if width is None else width, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)


def augment(image: Image.Image, config: AugmentConfig, rng: np.random.Generator) -> Image.Image:
    """Returns the image, of the same size, after one affine map, one colour map, blur and erasing."""
    # Every example draws the same number of values, so that switching one change on leaves the others' draws alone.
    draws = rng.random(16).tolist()
    image = _move(image, config, draws[:7])
    image = _recolour(image, config, draws[7:12])
    if draws[12] < config.blur_rate:
        image = image.filter(ImageFilter.GaussianBlur(_between(config.blur_radius, draws[13])))
    if draws[14] < config.erase_rate:
        image = _erase(image, _between(config.erase_area, draws[15]), rng)
    return image


def _between(bounds: Range, draw: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def _either_way(largest: float, draw: float) -> float:
    return _between((-largest, largest), draw)


def _move(image: Image.Image, config: AugmentConfig, draws: Draws) -> Image.Image:
    angle = math.radians(_either_way(config.rotate_degrees, draws[0]))
    shear = math.tan(math.radians(_either_way(config.shear_degrees, draws[1])))
    zoom = math.exp(_between((math.log(config.zoom[0]), math.log(config.zoom[1])), draws[2]))
    shift_x, shift_y = (
        _either_way(config.translate * side, draw) for side, draw in zip(image.size, draws[3:5], strict=True)
    )
    flip = -1.0 if draws[5] < config.flip_rate else 1.0
    if (angle, shear, zoom, shift_x, shift_y, flip) == (0.0, 0.0, 1.0, 0.0, 0.0, 1.0):
        return image
    # Pillow wants the map from output to input pixels, the inverse of zoom * rotation @ ((flip, shear), (0, 1)).
    cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
    row_x = (flip * (cosine + shear * sine), flip * (sine - shear * cosine))
    return _affine(image, row_x, (-sine, cosine), (shift_x, shift_y), config.fill)


def _affine(image: Image.Image, row_x: Range, row_y: Range, shift: Range, fill: int) -> Image.Image:
    # About the middle: output pixel middle + shift shows input pixel middle.
    middle_x, middle_y = image.width / 2, image.height / 2
    out_x, out_y = middle_x + shift[0], middle_y + shift[1]
    offset_x = middle_x - row_x[0] * out_x - row_x[1] * out_y
    offset_y = middle_y - row_y[0] * out_x - row_y[1] * out_y
    coefficients = (*row_x, offset_x, *row_y, offset_y)
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=(fill, fill, fill)
    )


def _recolour(image: Image.Image, config: AugmentConfig, draws: Draws) -> Image.Image:
    saturation = 1.0 + _either_way(config.saturation, draws[0])
    hue = math.radians(_either_way(config.hue_degrees, draws[1]))
    contrast = 1.0 + _either_way(config.contrast, draws[2])
    brightness = 1.0 + _either_way(config.brightness, draws[3])
    if draws[4] < config.gray_rate:
        saturation = 0.0
    if (saturation, hue, contrast, brightness) == (1.0, 0.0, 1.0, 1.0):
        return image
    scale, offset = brightness * contrast, brightness * (1.0 - contrast) * MIDDLE_GRAY
    rows = _colour_rows(saturation, hue)
    return image.convert("RGB", tuple(value for row in rows for value in (*(scale * weight for weight in row), offset)))


def _colour_rows(saturation: float, hue: float) -> list[tuple[float, ...]]:
    """Returns saturation * H + (1 - saturation) * luma(H), rows of a 3 x 3 matrix on RGB.

    H rotates by `hue` about the gray axis (1, 1, 1) (Rodrigues' formula), so grays stay as they are.
    """
    cosine, sine, third = math.cos(hue), math.sin(hue) / math.sqrt(3), (1.0 - math.cos(hue)) / 3
    same, before, after = cosine + third, third - sine, third + sine
    rotated = ((same, before, after), (after, same, before), (before, after, same))
    luma = [sum(weight * row[column] for weight, row in zip(LUMA, rotated, strict=True)) for column in range(3)]
    mix = 1.0 - saturation
    return [tuple(saturation * one + mix * gray for one, gray in zip(row, luma, strict=True)) for row in rotated]


def _erase(image: Image.Image, area: float, rng: np.random.Generator) -> Image.Image:
    # Random erasing, Zhong et al. 2017, with one colour for the whole rectangle.
    ratio = math.exp(rng.uniform(-math.log(3), math.log(3)))
    width = min(image.width, round(math.sqrt(area * ratio) * image.width))
    height = min(image.height, round(math.sqrt(area / ratio) * image.height))
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    colour = tuple(int(level) for level in rng.integers(0, 256, 3))
    erased = image.copy()
    erased.paste(colour, (left, top, left + width, top + height))
    return erased
