"""What the code around a model asks of its config, so that it need not know which model it is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from mmjax.nn.module import Module
from mmjax.types import Array, Batch, Key

Colours = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class ModelConfig(ABC):
    """A whole model."""

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Patterns of the parameters that an optimizer must leave alone, weight decay included."""
        return ()

    @property
    def embeds(self) -> bool:
        """Whether images and texts have embeddings in one space, without which nothing can be retrieved."""
        return True

    @property
    def fuses(self) -> bool:
        """Whether it looks at an image and a text together, and says something of the pair."""
        return False

    @property
    @abstractmethod
    def text_len(self) -> int:
        """The most tokens of a text."""

    @property
    def takes_shorter_texts(self) -> bool:
        """Whether texts may be padded to fewer tokens than that, with the same result."""
        return False

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Rows of the table of tokens."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int] | None:
        """Rows and columns of pixels; None where the model looks at no pixels."""

    @property
    @abstractmethod
    def image_colours(self) -> Colours | None:
        """Mean and deviation that pixels are normalised with, where it looks at pixels."""

    @property
    def region_dim(self) -> int | None:
        """Numbers of a region's features; None where the model looks at no regions."""
        return None

    @property
    @abstractmethod
    def needs_whole_batch(self) -> bool:
        """Whether an example's output in training depends on its batch, which then cannot be taken in parts."""

    @abstractmethod
    def build(self, key: Key) -> "Model":
        """The model, with initial values drawn from `key`."""


class Model(Module):
    """Images and texts to embeddings in one space."""

    @abstractmethod
    def image_embed(self, fields: Batch) -> Array:
        """float32 (b, e), of length 1, from the fields of a batch that stand for its images."""

    @abstractmethod
    def run_tower(self, name: Literal["image", "text"], batch: Batch, key: Key | None) -> Any:
        """Whatever that tower makes of a batch, for those who ask what it costs; () where there is none."""

    @abstractmethod
    def text_embed(self, text_ids: Array, text_mask: Array) -> Array:
        """float32 (b, e), of length 1, of texts int32 (b, t) with their mask."""
