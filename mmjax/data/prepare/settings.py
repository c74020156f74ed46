"""What a preparation is asked for."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from mmjax.data.nearest import unknown_name
from mmjax.errors import UserError

DEDUPS = ("none", "exact", "perceptual")
NUMBERS = ("min_side", "max_ratio", "min_chars", "max_chars", "min_words", "max_words")
LANGUAGES, LICENCES = "languages", "licences"
BITS = 64
"""Of a perceptual hash."""
RECORDS_A_PART = 8192
"""Of a source, which one process does at a time, where nothing else is asked for."""


@dataclass(frozen=True)
class Settings:
    """All that decides what is written; it is kept beside it.

    Attributes:
      source, split, image_key, text_key: as those of `DataConfig`.
      licence_key: what names the licence of each image, as `text_key` names captions; "" where nothing does.
      filters: names and values, what a record must have (see `NUMBERS`): the shorter side in pixels, longer over
        shorter, letters and words of the main caption; "languages" are codes with commas, of which it has to be one,
        and "licences" what the image's may be.
      dedup: "exact" keeps one record of each image, byte for byte; "perceptual" one of images that look the same.
      decontaminate: sources of evaluations, whose images are kept out, by the same measure ("exact" where there is
        none).
      distance: bits of 64 that perceptual hashes of images that look the same may differ in.
      resize: pixels that a longer shorter side is scaled to; 0 leaves images as they are.
      quality: of the JPEGs that scaled images become.
      shards: files that are written.
      name: what the data set is called.
    """

    source: str
    split: str = "train"
    image_key: str = "image"
    text_key: str = "text"
    licence_key: str = ""
    filters: tuple[tuple[str, str], ...] = ()
    dedup: str = "none"
    decontaminate: tuple[str, ...] = ()
    distance: int = 4
    resize: int = 0
    quality: int = 92
    shards: int = 1
    name: str = "pairs"

    def __post_init__(self) -> None:
        if self.dedup not in DEDUPS:
            raise unknown_name("--dedup", self.dedup, DEDUPS)
        for name, value in self.filters:
            if name not in (*NUMBERS, LANGUAGES, LICENCES):
                raise unknown_name("--filter", name, (*NUMBERS, LANGUAGES, LICENCES))
            if name == LICENCES and not self.licence_key:
                raise UserError("--filter licences=... needs to know where they are: give --licence-key")
            if name in NUMBERS and not _is_number(value):
                raise UserError(f"--filter {name}={value} is not a number: write --filter {name}=64")
        bounds = {"shards": 1, "resize": 0, "distance": 0, "quality": 1}
        for name, least in bounds.items():
            if getattr(self, name) < least:
                raise UserError(f"--{name}={getattr(self, name)} is below {least}: give {least} or more")

        if self.distance >= BITS:
            raise UserError(f"--distance={self.distance} is not below the {BITS} bits of a hash: give 4, or a few more")

    @property
    def measure(self) -> str:
        """How images are compared with those of evaluations."""
        return "perceptual" if self.dedup == "perceptual" else "exact"

    @property
    def reach(self) -> int:
        """Bits in which hashes of the same image may differ."""
        return self.distance if self.measure == "perceptual" else 0

    def to_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def parse_filters(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """("min_side", "64") of "min_side=64".

    Raises:
        UserError: one has no value.
    """
    pairs = [text.partition("=") for text in texts]
    for text, (_, _, value) in zip(texts, pairs, strict=True):
        if not value:
            raise UserError(f"--filter {text} has no value: write --filter min_side=64")
    return tuple((name, value) for name, _, value in pairs)


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
