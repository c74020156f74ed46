"""Opens a data set from its specification: "emoji", or what KINDS has."""

from pathlib import Path

from mmjax.data import storage
from mmjax.data.emoji.source import EmojiSource
from mmjax.data.emoji.splits import NAMED_SPLITS
from mmjax.data.nearest import unknown_name
from mmjax.data.records import Source
from mmjax.data.regions import RegionsConfig
from mmjax.data.sources import arrow, imagefolder, slices
from mmjax.data.sources.fields import Keys
from mmjax.data.sources.tables import TableSource
from mmjax.data.sources.tfds import TfdsSource
from mmjax.data.sources.tfds_folder import folder_of, open_builder
from mmjax.data.sources.webdataset import WebDatasetSource
from mmjax.errors import UserError

KINDS = (
    "emoji",
    "imagefolder:DIR",
    "tfds:DIR",
    "wds:PATTERN",
    "parquet:PATTERN",
    "hfds:DIR",
    "csv:FILE",
    "jsonl:FILE",
)


def open_source(
    spec: str,
    split: str,
    *,
    image_key: str = "image",
    text_key: str = "text",
    locale: str = "en",
    answer_key: str = "",
    regions: RegionsConfig | None = None,
    licence_key: str = "",
    within: str | None = None,
) -> Source:
    """Returns the records of one split.

    `image_key` and `text_key` name the features of a TFDS directory, members of tars, or columns of a table (and
    `text_key` that of an image folder), and so does `licence_key` ("" is none) of all but the emoji; `locale` is the
    language of the emoji captions; `answer_key` and `regions` are read of a TFDS directory alone. `within` is a folder
    outside of which no file is read for an image.

    Raises:
        UserError: an unknown specification, split, key or locale (with the nearest names), or missing or empty data.
    """
    kind, place = parse_spec(spec)
    keys = Keys(image_key, text_key, licence_key, within)
    if kind == "tfds":
        return TfdsSource(folder_of(place), split, keys, answer_key, regions)
    for name, wanted in (("regions", regions is not None), ("answer_key", bool(answer_key))):
        if wanted:
            raise UserError(f"data.{name} is set, but data.source {spec!r} has none: give tfds:DIR, or leave it out")
    if kind == "emoji" and licence_key:
        raise UserError(f"licence_key is set, but the emoji have none: leave {licence_key!r} out")
    if kind == "emoji":
        return EmojiSource(split, locale)
    if kind == "imagefolder":
        return imagefolder.image_folder(_folder(place), split, keys)
    if kind == "wds":
        return slices.sliced(WebDatasetSource(place, keys), split, spec)
    if kind == "parquet":
        return arrow.parquet(place, split, keys)
    if kind == "hfds":
        return arrow.saved(_folder(place), split, keys)
    return slices.sliced(TableSource(_file(place), kind, keys), split, spec)


def list_splits(spec: str) -> tuple[str, ...]:
    """Returns the names of the splits that `open_source` would open, without reading a record."""
    kind, place = parse_spec(spec)
    if kind == "emoji":
        return tuple(NAMED_SPLITS)
    if kind == "imagefolder":
        return tuple(imagefolder.find_splits(_folder(place)))
    if kind == "tfds":
        return tuple(open_builder(folder_of(place)).info.splits)
    if kind == "hfds":
        return arrow.saved_splits(_folder(place))
    return (slices.WHOLE,)


def parse_spec(spec: str) -> tuple[str, str]:
    """Returns (kind, place); raises UserError when the specification is none of KINDS."""
    kind, colon, place = spec.partition(":")
    if kind not in (known.partition(":")[0] for known in KINDS):
        raise unknown_name("data.source", kind, KINDS)
    if (kind == "emoji") == bool(colon) or (colon and not place):
        raise UserError(f"data.source {spec!r} is incomplete: write one of {', '.join(KINDS)}")
    return kind, place


def _file(place: str) -> storage.File:
    files = storage.find(place)
    if len(files) != 1:
        raise UserError(f"{place} is {len(files)} files: give one table, or join them")
    return files[0]


def _folder(place: str) -> Path:
    return Path(place).expanduser()
