"""Records of WebDataset shards, tars as img2dataset writes them: read by number and never unpacked."""

import copy
import fnmatch
import json
import re
from typing import Any

from mmjax.data import storage
from mmjax.data.nearest import unknown_name
from mmjax.data.records import BadRecord, Record, check_index, middle
from mmjax.data.sources import fields
from mmjax.data.sources.fields import IMAGE_SETTING, LICENCE_SETTING, TEXT_SETTING, Keys
from mmjax.data.sources.tar_index import tar_index
from mmjax.data.sources.tar_samples import CUT_OFF, DUPLICATE, Sample
from mmjax.errors import UserError

SETTINGS = (IMAGE_SETTING, TEXT_SETTING, LICENCE_SETTING)
ANY_IMAGE, ANY_TEXT = "image", "text"
"""Keys with a meaning of their own: whichever member is an image, and the text member."""
IMAGE_KINDS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif")
TEXT_KINDS = ("txt",)
MOST_GAP_BYTES = 2**16
"""Between members of a sample that are read at once: a request costs more than so many bytes, wherever they lie."""


class WebDatasetSource:
    """A source over the tars of a pattern, in its order.

    Members of a sample share its key, and are told apart by what follows it. The image is the member of that name
    ("image": whichever is one), or with a wildcard those of a video's frames ("frame*.jpg"); the caption ("text": the
    `.txt`), or of the `.json` a field, "json/caption", which may be a list of captions. So the licence is
    "json/license", which a sample may be without.
    """

    def __init__(self, pattern: str, keys: Keys | None = None):
        keys = keys or Keys()
        self._index = tar_index(storage.find(pattern))
        kinds, self._frames = keys.columns(), keys.image.lower() if "*" in keys.image else ""
        named: dict[str, tuple[str, ...]] = {setting: (kind.lower(),) for setting, kind in kinds.items()}
        if keys.image == ANY_IMAGE:
            named[IMAGE_SETTING] = IMAGE_KINDS
        if keys.text == ANY_TEXT:
            named[TEXT_SETTING] = TEXT_KINDS
        self._image_kinds, self._text_kinds, self._licence_kinds = (named.get(setting, ()) for setting in SETTINGS)
        self._field, self._licence_field = (key.partition("/")[2] for key in (keys.text, keys.licence))
        for setting in named:
            self._check(pattern, setting, kinds[setting], named[setting])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        check_index(index, self)
        sample = self._index[index]
        _check_state(sample)
        image_kinds = self._image_kinds_of(sample)
        text_kind = _present(sample, self._text_kinds, "caption")
        licence_kind = next((kind for kind in self._licence_kinds if kind in sample.members), None)
        read = _read(sample, [kind for kind in (*image_kinds, text_kind, licence_kind) if kind is not None])
        captions = fields.captions(_value(read[text_kind], self._field))
        images = tuple(read[kind] for kind in image_kinds)
        licence = "" if licence_kind is None else _licence(read[licence_kind], self._licence_field)
        return Record(
            middle(images) if images else None,
            captions,
            None,
            f"{sample.shard.address} {sample.key}",
            frames=images if self._frames else (),
            licence=licence,
        )

    def _image_kinds_of(self, sample: Sample) -> list[str]:
        """The members that are read of a sample for its image, or for its frames in the order of their numbers."""
        if not self._image_kinds:
            return []
        if not self._frames:
            return [_present(sample, self._image_kinds, "image")]
        found = fnmatch.filter(sample.members, self._frames)
        if not found:
            raise BadRecord(f"its sample {sample.key!r} in {sample.shard.address} has no frame (no .{self._frames})")
        return sorted(found, key=_numbers_of)

    def part(self, numbers: range) -> "WebDatasetSource":
        """These records alone; a copy of it takes the places of them, and no others, to another machine."""
        found = copy.copy(self)
        found._index = self._index.part(numbers)
        return found

    def _check(self, pattern: str, setting: str, key: str, kinds: tuple[str, ...]) -> None:
        known = self._index.kind_names
        if not known:
            raise UserError(f"{pattern} has no samples: their members are called KEY.jpg, KEY.txt and so on")
        if kinds and not any(fnmatch.filter(known, kind) for kind in kinds):
            raise unknown_name(f"{pattern}: {setting}", key, known)


def _value(member: bytes, place: str) -> Any:
    """What a member says: its text, or where `place` is not "" the field of its JSON that is there."""
    try:
        text = member.decode()
    except UnicodeDecodeError as error:
        raise BadRecord("its caption is not UTF-8") from error
    if not place:
        return text.strip()
    try:
        return fields.field(json.loads(text), place)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"its fields are not JSON ({error})") from error


def _licence(member: bytes, place: str) -> str:
    try:
        value = _value(member, place)
    except BadRecord:
        return ""  # Which is no reason to do without the record.
    return "" if value is None else str(value).strip()


def _numbers_of(kind: str) -> tuple[list[int], str]:
    """Frame 10 comes behind frame 9."""
    return [int(number) for number in re.findall(r"\d+", kind)], kind


def _check_state(sample: Sample) -> None:
    if sample.state == CUT_OFF:
        raise BadRecord(f"{sample.shard.address} is cut off or damaged after {sample.key!r}")
    if sample.state == DUPLICATE:
        raise BadRecord(f"its key {sample.key!r}, or a member of it, is in {sample.shard.address} more than once")


def _present(sample: Sample, kinds: tuple[str, ...], what: str) -> str:
    for kind in kinds:
        if kind in sample.members:
            return kind
    raise BadRecord(f"its sample {sample.key!r} in {sample.shard.address} has no {what} (no .{' or .'.join(kinds)})")


def _read(sample: Sample, kinds: list[str]) -> dict[str, bytes]:
    """These members, at once where they lie close to each other."""
    places = sorted((*sample.members[kind], kind) for kind in set(kinds))
    start, end = places[0][0], max(offset + size for offset, size, _ in places)
    if end - start > sum(size for _, size, _ in places) + MOST_GAP_BYTES:
        return {kind: storage.read(sample.shard, offset, size) for offset, size, kind in places}
    whole = storage.read(sample.shard, start, end - start)
    return {kind: whole[offset - start : offset - start + size] for offset, size, kind in places}
