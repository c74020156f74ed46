"""What a record's fields say: a place in nested fields, captions, and an image in the forms that formats have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mmjax.data import storage
from mmjax.data.records import BadRecord, middle, require_caption

IMAGE_SETTING, TEXT_SETTING, LICENCE_SETTING = "data.image_key", "data.text_key", "licence_key"
"""What messages call the settings that name them."""


@dataclass(frozen=True)
class Keys:
    """Which fields of a record are read, by the names that its format has for them.

    Attributes:
      image: the image, or of lists of them a video's frames; "" reads none.
      text: the caption, or a list of captions.
      licence: the image's licence, which may be missing; "" reads none.
      within: a folder outside of which no file is read for an image; None reads whatever is named.
    """

    image: str = "image"
    text: str = "text"
    licence: str = ""
    within: str | None = None

    def columns(self, image_setting: str = IMAGE_SETTING) -> dict[str, str]:
        """The column or member that each setting is about, of those that name one: "a" of "a/b"."""
        named = {image_setting: self.image, TEXT_SETTING: self.text, LICENCE_SETTING: self.licence}
        return {setting: key.partition("/")[0] for setting, key in named.items() if key}


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


def class_name(names: Sequence[str], number: int) -> str:
    """What a class label says; "" where it is below 0, which stands for none."""
    return names[number] if number >= 0 else ""


def captions(value: Any) -> tuple[str, ...]:
    """The captions of a value that is one or a list of them; raises BadRecord where one is no text."""
    found = value if isinstance(value, list) and value else [value]
    return tuple(require_caption(caption) for caption in found)


def image(value: Any, folder: str, within: str | None = None) -> tuple[bytes, str | None]:
    """The encoded image of bytes, of a path, or of `datasets`' pair of both, and the file that it is, if it is one.

    Paths are relative to `folder`, absolute, or addresses. `within` is as of `Keys`.

    Raises:
        BadRecord: it is none of these, lies elsewhere, or cannot be read (Unreachable where only not now).
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value, None
    if isinstance(value, str) and value:
        address = storage.joined(folder, value)
        if within is not None and not storage.is_inside(address, within):
            raise BadRecord(f"{address} lies outside {within}: copy the image into the folder")
        return storage.read_whole(address, folder), address
    raise BadRecord(f"its image is {value!r:.60}, neither bytes nor a path")


class Pixels(NamedTuple):
    """What a record is seen by."""

    image: bytes | np.ndarray | None = None
    frames: tuple[bytes | np.ndarray, ...] = ()
    path: str | None = None


def pixels(row: Mapping[str, Any], keys: Keys, folder: str) -> Pixels:
    """The image of a row, or of a list of them the frames of a video; and the file that it is, if it is one.

    Raises:
        BadRecord: as `image`, or there is no frame.
    """
    if not keys.image:
        return Pixels()
    value = field(row, keys.image)
    if not isinstance(value, list):
        found, path = image(value, folder, keys.within)
        return Pixels(found, path=path)
    frames = tuple(image(frame, folder, keys.within)[0] for frame in value)
    return Pixels(middle(frames), frames)
