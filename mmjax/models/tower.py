"""What every image tower has, so that the code around it need not know which one it is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from mmjax.nn.module import Module
from mmjax.types import Array, Key

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class ImageTowerConfig(ABC):
    """What a config of an image tower says.

    image_size, image_width: rows and columns in pixels; no `image_width` makes the image square.
    image_mean, image_std: what uint8 pixels, scaled to 0..1, are normalised with.
    """

    image_size: int = 224
    image_width: int | None = None
    image_mean: Colour = (0.5, 0.5, 0.5)
    image_std: Colour = (0.5, 0.5, 0.5)
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of pixels."""
        return self.image_size, self.image_size if self.image_width is None else self.image_width

    @property
    @abstractmethod
    def width(self) -> int:
        """Of the features."""

    @property
    @abstractmethod
    def needs_whole_batch(self) -> bool:
        """Whether an example's output in training depends on its batch, which then cannot be taken in parts."""

    @abstractmethod
    def build(self, key: Key) -> "ImageTower":
        """The tower, with initial values drawn from `key`."""


class ImageTower(Module):
    """Images to features."""

    @abstractmethod
    def __call__(self, image: Array, key: Key | None = None) -> tuple[Array, dict[str, Array]]:
        """The features (b, d) of images (b, y, x, 3): uint8 pixels, or floats that are normalised already.

        `key` switches training on: dropout, and statistics of the batch. Extras: `tokens` (b, t, d), one a position;
        `features`.
        """


def normalised(image: Array, config: ImageTowerConfig) -> Array:
    """The image as `normalise` gives it, in the compute dtype."""
    return normalise(image, config.image_mean, config.image_std).astype(config.compute_dtype)


def normalise(image: Array, mean: Colour, std: Colour) -> Array:
    """Pixels uint8 (b, y, x, 3) as (pixel / 255 - mean) / std, float32; floats stay as they are."""
    if image.dtype != jnp.uint8:
        return image
    return (image.astype(jnp.float32) / 255 - jnp.asarray(mean)) / jnp.asarray(std)
