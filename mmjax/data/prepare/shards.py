"""The records that are kept, as shards of ArrayRecord."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmjax.data import preprocess
from mmjax.data.prepare.settings import Settings
from mmjax.data.records import BadRecord, Record, Source, Unreachable
from mmjax.data.tfds_writer import Description, ShardSize, write_info, write_shard
from mmjax.errors import UserError


class Shard(NamedTuple):
    """A file that was written: its name, its records and their bytes, and the bytes and the SHA-256 of all of it."""

    name: str
    records: int
    record_bytes: int
    bytes: int
    sha256: str


def describe(settings: Settings) -> Description:
    return Description(settings.name, "1.0.0", f"Image-text pairs of {settings.source} ({settings.split}), prepared.")


def features(settings: Settings) -> Any:
    """What a record has."""
    import tensorflow_datasets as tfds  # Here, because it takes most of a second to import.

    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), doc="encoded, as its bytes say"),
            "text": tfds.features.Sequence(text(), doc="captions, the main one first"),
            "name": text(doc="where it comes from"),
        }
        | ({"licence": text(doc="of the image, as the source says it")} if settings.licence_key else {})
    )


def write(settings: Settings, source: Source, numbers: Sequence[int], folder: Path, shard: int) -> Shard:
    """Writes these records as one shard, the one file in an empty folder of this machine."""
    examples = (_example(_again(source, number), settings) for number in numbers)
    size = write_shard(folder, describe(settings), "train", shard, settings.shards, examples, features(settings))
    (path,) = folder.iterdir()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(path.name, size.num_examples, size.num_bytes, path.stat().st_size, digest)


def _again(source: Source, number: int) -> Record:
    """A record that could be read before."""
    try:
        return source[number]
    except Unreachable as error:
        raise UserError(f"{error}: run the same command again, and it goes on from here") from error
    except BadRecord as error:
        raise UserError(f"record {number} is not what it was ({error}): prepare it anew in another --out") from error


def write_facts(settings: Settings, folder: Path, written: Sequence[Shard]) -> None:
    """Writes what TFDS reads the shards by."""
    sizes = [ShardSize(shard.records, shard.record_bytes) for shard in written]
    write_info(folder, describe(settings), features(settings), {"train": sizes})


def _example(record: Record, settings: Settings) -> Mapping[str, Any]:
    example = {"image": _image(record.image, settings), "text": list(record.captions), "name": record.name}
    return example | ({"licence": record.licence} if settings.licence_key else {})


def _image(image: bytes | np.ndarray | None, settings: Settings) -> bytes:
    """The encoded image: its own bytes where it is to stay as it is."""
    if isinstance(image, bytes) and not settings.resize:
        return image
    decoded = preprocess.decode(image)
    short = min(decoded.size)
    if settings.resize and short > settings.resize:
        # reducing_gap lets Pillow halve first what is far larger; 3 is hardly told from the exact filter.
        width, height = (max(1, round(side * settings.resize / short)) for side in decoded.size)
        decoded = decoded.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    elif isinstance(image, bytes):
        return image
    buffer = io.BytesIO()
    decoded.save(buffer, "jpeg", quality=settings.quality)
    return buffer.getvalue()


def kept_numbers(reasons: np.ndarray, parts: Sequence[range]) -> Iterator[np.ndarray]:
    """Of each part, the numbers of the records that are kept."""
    for part in parts:
        yield part.start + np.flatnonzero(reasons[part.start : part.stop] == "")
