"""One image-text pair, what a source of them is, and what a bad one raises."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Regions:
    """What a detector found in an image, the surest first.

    Attributes:
      features: float (p, c).
      boxes: float32 (p, 4), each left, top, right, bottom as fractions of the image.
      targets: what it said of each region (p, ...), by name: classes, probabilities, confidences.
    """

    features: np.ndarray
    boxes: np.ndarray
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One image with its captions.

    Attributes:
      image: encoded bytes (any format that Pillow reads), or uint8 (height, width, 3); of a video its middle frame;
        None where only its regions are stored.
      captions: the main caption first, then others that also fit the image (for emoji: the label, then its tags).
      class_name: what zero-shot classification should answer, where the source knows it.
      name: where the record comes from, for messages.
      regions: what stands in place of the image's pixels, where the data is read for that.
      answer: the class of the answer to the question that the captions ask, where the data has one.
      frames: of a video all that are stored, in their order, each as `image`; a training example shows one of them.
      licence: what the data says of this image's, where it is asked for; "" where it says nothing.
    """

    image: bytes | np.ndarray | None
    captions: tuple[str, ...]
    class_name: str | None
    name: str
    regions: Regions | None = None
    answer: int | None = None
    frames: tuple[bytes | np.ndarray, ...] = ()
    licence: str = ""

    @property
    def id(self) -> int:
        """Non-negative int32, equal for equal main captions: records of equal id are positives of each other."""
        return caption_id(self.captions[0])


class BadRecord(Exception):
    """A record that cannot be used (no such file, broken image, no caption): its row gets weight 0."""


class Unreachable(BadRecord):
    """A record that cannot be read now and perhaps later: it is tried again, and then is like a bad one."""


class Source(Protocol):
    """Records by index, the same record for the same index in every process and every run."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Returns record `index`, 0 <= index < len(self).

        Raises BadRecord when it cannot be used (Unreachable when only not now), IndexError when there is none.
        """
        ...


def check_index(index: int, source: Source) -> None:
    """Raises IndexError where the source has no record of this number."""
    if not 0 <= index < len(source):
        raise IndexError(f"record {index} of {len(source)}")


def caption_id(caption: str) -> int:
    """Returns a hash of the caption in [0, 2^31), the same in every process; case and outer spaces are ignored.

    Two different captions of a batch of n share an id with probability about n^2 / 2^32.
    """
    digest = hashlib.blake2b(caption.strip().casefold().encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def middle(frames: Sequence[bytes | np.ndarray]) -> bytes | np.ndarray:
    """The frame that stands for a video; raises BadRecord where there is none."""
    if not frames:
        raise BadRecord("it has no frame")
    return frames[len(frames) // 2]


def require_caption(caption: object) -> str:
    """Returns the caption; raises BadRecord when it is not a text with something in it."""
    if not isinstance(caption, str) or not caption.strip():
        raise BadRecord(f"its caption is {caption!r}, not a text")
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise BadRecord("its caption is not UTF-8") from error
    return caption
