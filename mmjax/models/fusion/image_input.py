"""What the image stream begins with, so that the model around it need not know which it is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from jax.typing import DTypeLike

from mmjax.models.base import Colours
from mmjax.models.fusion.text_input import TextInput
from mmjax.nn.module import Module
from mmjax.types import Array, Batch, Key


class ImageTokens(NamedTuple):
    """tokens (b, p, d); mask bool (b, p), True for those that may be seen, or None where that is all of them."""

    tokens: Array
    mask: Array | None


@dataclass(frozen=True)
class ImageInputConfig(ABC):
    """A config of an image input: what it is made of, and the `width` of its tokens."""

    width: int = 768
    dropout_rate: float = 0.1

    @property
    def num_parts(self) -> int | None:
        """Tokens that may be masked, of every image; None where a batch says how many it has."""
        return None

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """Rows and columns of pixels; None where it looks at no pixels."""
        return None

    @property
    def image_colours(self) -> Colours | None:
        """Mean and deviation that pixels are normalised with, where it looks at pixels."""
        return None

    @property
    def needs_whole_batch(self) -> bool:
        """Whether an example's tokens in training depend on its batch."""
        return False

    @abstractmethod
    def build(self, key: Key) -> "ImageInput":
        """The input, with initial values drawn from `key`."""


class ImageInput(Module):
    """A batch's images to tokens."""

    @abstractmethod
    def __call__(
        self, batch: Batch, text: TextInput, dtype: DTypeLike, masked: Array | None = None, key: Key | None = None
    ) -> ImageTokens:
        """Tokens of the images; `text` for those models whose inputs share parameters.

        masked: bool (b, p), True for tokens whose content is hidden, to be predicted; their places stay known.
        """
