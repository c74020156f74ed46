"""What a record's fields say: a place in nested fields, captions, and an image in the forms that formats have."""

from collections.abc import Mapping
from typing import Any

from mmjax.data import storage
from mmjax.data.records import BadRecord, require_caption


def field(fields: Any, place: str) -> Any:
    """The value at `place`, "a/b" of {"a": {"b": value}}; raises BadRecord where there is none."""
    value = fields
    try:
        for key in place.split("/"):
            value = value[key]
    except (KeyError, TypeError, IndexError) as error:
        raise BadRecord(f"it has no {place!r}") from error
    return value


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
