"""Opens a data set from its specification: "emoji", "imagefolder:DIR" or "tfds:DIR"."""

from pathlib import Path

from mmjax.data import imagefolder, tfds_source
from mmjax.data.emoji.source import EmojiSource
from mmjax.data.emoji.splits import NAMED_SPLITS
from mmjax.data.nearest import unknown_name
from mmjax.data.records import Source
from mmjax.data.regions import RegionsConfig
from mmjax.errors import UserError

KINDS = ("emoji", "imagefolder:DIR", "tfds:DIR")


def open_source(
    spec: str,
    split: str,
    *,
    image_key: str = "image",
    text_key: str = "text",
    locale: str = "en",
    answer_key: str = "",
    regions: RegionsConfig | None = None,
) -> Source:
    """Returns the records of one split.

    `image_key` and `text_key` name the features of a TFDS directory (and `text_key` the caption column of an image
    folder); `locale` is the language of the emoji captions; `answer_key` and `regions` are read of a TFDS directory
    alone. Raises UserError, in one line, for an unknown
    specification, split, key or locale (with the nearest names), and for missing or empty data.
    """
    kind, folder = parse_spec(spec)
    if kind == "tfds":
        return tfds_source.TfdsSource(folder, split, image_key, text_key, answer_key, regions)
    for name, wanted in (("regions", regions is not None), ("answer_key", bool(answer_key))):
        if wanted:
            raise UserError(f"data.{name} is set, but data.source {spec!r} has none: give tfds:DIR, or leave it out")
    if kind == "emoji":
        return EmojiSource(split, locale)
    return imagefolder.ImageFolderSource(folder, split, text_key)


def list_splits(spec: str) -> tuple[str, ...]:
    """Returns the names of the splits that `open_source` would open, without reading a record."""
    kind, folder = parse_spec(spec)
    if kind == "emoji":
        return tuple(NAMED_SPLITS)
    if kind == "imagefolder":
        return tuple(imagefolder.find_splits(folder))
    return tuple(tfds_source.open_builder(folder).info.splits)


def parse_spec(spec: str) -> tuple[str, Path]:
    """Returns (kind, folder); raises UserError when the specification is none of KINDS."""
    kind, colon, folder = spec.partition(":")
    if kind not in ("emoji", "imagefolder", "tfds"):
        raise unknown_name("data.source", kind, KINDS)
    if (kind == "emoji") == bool(colon) or (colon and not folder):
        raise UserError(f"data.source {spec!r} is incomplete: write one of {', '.join(KINDS)}")
    return kind, Path(folder).expanduser()
