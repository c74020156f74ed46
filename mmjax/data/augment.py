"""Random changes to training images, every draw a function of (seed, position of the example in the run)."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from mmjax.data import photos
from mmjax.data.nearest import unknown_name
from mmjax.data.photo_headers import Photo
from mmjax.data.photos import Box
from mmjax.data.rand_augment import HIGHEST, rand_augment
from mmjax.errors import UserError

Range = tuple[float, float]
Pixels = Image.Image | np.ndarray
"""An image in RGB, as Pillow keeps it or as uint8 (rows, columns, 3)."""
Draws = Sequence[float]
DECODERS = ("pillow", "turbo")
# Rec. 601 luma, which is also what Pillow's "L" mode uses.
LUMA = (0.299, 0.587, 0.114)
MIDDLE_GRAY = 128.0
WORD = 2**32 - 1


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges of the random changes; the defaults change nothing.

    Attributes:
      crop_area: range of the share of the original image that is cut out and resized, for photos; (1, 1) is the whole.
      crop_ratio: range of the cut's width / height.
      decoder: what decodes and scales photos that are cut: "pillow" with an antialiased bicubic filter, or "turbo" by
        scaled decoding of JPEGs, PNGs and WebPs and a bilinear filter, about twice as fast (see `photos`; others go to
        Pillow).
      rotate_degrees, shear_degrees: largest angle, either way.
      zoom: range of the factor of size.
      translate: largest shift, either way, as a share of the side.
      flip_rate: probability of a left-right flip. Zero by default: captions say "left", letters have a direction.
      brightness, contrast, saturation: largest relative change, either way (0.2: factors from 0.8 to 1.2).
      hue_degrees: largest rotation about the gray axis, either way.
      gray_rate: probability of a gray image.
      blur_rate, blur_radius: probability, and range of the Gaussian's radius in pixels.
      rand_augment_changes, rand_augment_magnitude: how many of RandAugment's changes are drawn, and how strong they
        are, 0 to 10 (the paper's ImageNet has 2 and 9; see `rand_augment`).
      erase_rate, erase_area: probability of a rectangle of one random colour, and range of its share of the image.
      fill: gray level, 0 to 255, of what comes in from outside the image (emoji are drawn on white).
    """

    crop_area: Range = (1.0, 1.0)
    crop_ratio: Range = (3 / 4, 4 / 3)
    decoder: str = "pillow"
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
    rand_augment_changes: int = 0
    rand_augment_magnitude: float = 9.0
    erase_rate: float = 0.0
    erase_area: Range = (0.02, 0.2)
    fill: int = 255

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise unknown_name("data.augment.decoder", self.decoder, DECODERS)
        if self.rand_augment_changes < 0:
            raise UserError(
                f"data.augment.rand_augment_changes = {self.rand_augment_changes} is below 0: give 0 for none"
            )
        if not 0 <= self.rand_augment_magnitude <= HIGHEST:
            raise UserError(
                f"data.augment.rand_augment_magnitude = {self.rand_augment_magnitude} is not between 0 and {HIGHEST:g}"
            )

    @property
    def crops(self) -> bool:
        """Whether the original image is needed, and not only its resized form."""
        return self.crop_area != (1.0, 1.0)

    @functools.cached_property
    def changes_nothing(self) -> bool:
        """Whether nothing is changed but by cutting."""
        rates = (self.flip_rate, self.gray_rate, self.blur_rate, self.erase_rate, self.rand_augment_changes)
        ranges = (self.rotate_degrees, self.shear_degrees, self.translate, *self.zoom)
        colours = (self.brightness, self.contrast, self.saturation, self.hue_degrees)
        return not any((*rates, *colours)) and ranges == (0.0, 0.0, 0.0, 1.0, 1.0)


def generator(seed: int, position: int) -> np.random.Generator:
    """Returns the random numbers of one example: the same for (seed, position) whatever process or thread asks."""
    # The same as default_rng([seed, position]), which takes three times as long to make the words of a list.
    entropy = np.array([*_words(seed), *_words(position)], np.uint32)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _words(number: int) -> list[int]:
    """The number in words of 32 bits, the lowest first."""
    words = [number & WORD]
    while number := number >> 32:
        words.append(number & WORD)
    return words


def random_crop(image: Image.Image | Photo, config: AugmentConfig, rng: np.random.Generator, out: np.ndarray) -> Pixels:
    """Returns a random part of the image (RandomResizedCrop: Szegedy et al. 2015, section 6).

    It has as many rows and columns as `out`, which that of a photo is written into.

    Raises:
        BadRecord: it is a photo that cannot be decoded whole.
    """
    box = _random_box(image.width, image.height, config, rng)
    if isinstance(image, Photo):
        photos.cut(image, box, out)
        return out
    return image.resize((out.shape[1], out.shape[0]), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)


def _random_box(image_width: int, image_height: int, config: AugmentConfig, rng: np.random.Generator) -> Box:
    draws = rng.random(4).tolist()
    area = _between(config.crop_area, draws[0]) * image_width * image_height
    ratio = math.exp(_between((math.log(config.crop_ratio[0]), math.log(config.crop_ratio[1])), draws[1]))
    cut_width, cut_height = min(math.sqrt(area * ratio), image_width), min(math.sqrt(area / ratio), image_height)
    left, top = (image_width - cut_width) * draws[2], (image_height - cut_height) * draws[3]
    return left, top, left + cut_width, top + cut_height


def augment(image: Pixels, config: AugmentConfig, rng: np.random.Generator) -> Pixels:
    """Returns the image, of the same size, after one affine map, one colour map, blur, RandAugment and erasing."""
    # Every example draws the same number of values, so that switching one change on leaves the others' draws alone.
    draws = rng.random(16).tolist()
    if config.changes_nothing:
        return image
    image = _move(image, config, draws[:7])
    image = _recolour(image, config, draws[7:12])
    if draws[12] < config.blur_rate:
        image = _as_image(image).filter(ImageFilter.GaussianBlur(_between(config.blur_radius, draws[13])))
    if config.rand_augment_changes:
        how = (config.rand_augment_changes, config.rand_augment_magnitude, config.fill)
        # Numbers of its own, as it draws more of them the more changes there are.
        image = rand_augment(_as_image(image), *how, rng.spawn(1)[0])
    if draws[14] < config.erase_rate:
        image = _erase(_as_image(image), _between(config.erase_area, draws[15]), rng)
    return image


def _between(bounds: Range, draw: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def _either_way(largest: float, draw: float) -> float:
    return _between((-largest, largest), draw)


def _as_image(image: Pixels) -> Image.Image:
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def _move(image: Pixels, config: AugmentConfig, draws: Draws) -> Pixels:
    image_size = image.shape[1::-1] if isinstance(image, np.ndarray) else image.size
    angle = math.radians(_either_way(config.rotate_degrees, draws[0]))
    shear = math.tan(math.radians(_either_way(config.shear_degrees, draws[1])))
    zoom = math.exp(_between((math.log(config.zoom[0]), math.log(config.zoom[1])), draws[2]))
    shift_x, shift_y = (
        _either_way(config.translate * side, draw) for side, draw in zip(image_size, draws[3:5], strict=True)
    )
    flip = -1.0 if draws[5] < config.flip_rate else 1.0
    if (angle, shear, zoom, shift_x, shift_y, flip) == (0.0, 0.0, 1.0, 0.0, 0.0, 1.0):
        return image
    # Pillow wants the map from output to input pixels, the inverse of zoom * rotation @ ((flip, shear), (0, 1)).
    cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
    row_x = (flip * (cosine + shear * sine), flip * (sine - shear * cosine))
    return _affine(_as_image(image), row_x, (-sine, cosine), (shift_x, shift_y), config.fill)


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


def _recolour(image: Pixels, config: AugmentConfig, draws: Draws) -> Pixels:
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
    return _as_image(image).convert(
        "RGB", tuple(value for row in rows for value in (*(scale * weight for weight in row), offset))
    )


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
