"""What a record's fields say: a place in nested fields, captions, and an image in the forms that formats have."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mmjax.data import storage
from mmjax.data.records import BadRecord, middle, require_caption

LICENCE_SETTING = "licence_key"
"""What messages call the setting that names it."""


def field(fields: Any, place: str) -> Any:
    """The value at `place`, "a/b" of {"a": {"b": value}}; raises BadRecord where there is none."""
    value = fields
    try:
        for key in place.split("/"):
            value = value[key]
    except (KeyError, TypeError, IndexError) as error:
        raise BadRecord(f"it has no {place!r}") from error
    return value


def licence(fields: Any, place: str) -> str:
    """The text at `place`; "" where `place` is "" or there is none, which is no reason to do without the record."""
    try:
        value = field(fields, place) if place else None
    except BadRecord:
        return ""
    return "" if value is None else str(value).strip()


def captions(value: Any) -> tuple[str, ...]:
    """The captions of a value that is one or a list of them; raises BadRecord where one is no text."""
    found = value if isinstance(value, list) and value else [value]
    return tuple(require_caption(caption) for caption in found)


def image(value: Any, folder: str) -> tuple[bytes, str | None]:
    """The encoded image of bytes, of a path, or of `datasets`' pair of both, and the file that it is, if it is one.

    Paths are relative to `folder`, absolute, or addresses.

    Raises:
        BadRecord: it is none of these, or cannot be read (Unreachable where only not now).
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value, None
    if isinstance(value, str) and value:
        address = storage.joined(folder, value)
        return storage.read_whole(address, folder), address
    raise BadRecord(f"its image is {value!r:.60}, neither bytes nor a path")


class Pixels(NamedTuple):
    """What a record is seen by: fields of `Record`."""

    image: bytes | np.ndarray | None
    path: str | None = None
    frames: tuple[bytes | np.ndarray, ...] = ()


NOTHING = Pixels(None)


def pixels(value: Any, folder: str) -> Pixels:
    """An image, or of a list of them the frames of a video.

    Raises:
        BadRecord: as `image`, or there is no frame.
    """
    if not isinstance(value, list):
        return Pixels(*image(value, folder))
    frames = tuple(image(frame, folder)[0] for frame in value)
    return Pixels(middle(frames), None, frames)
