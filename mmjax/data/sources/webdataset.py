"""Records of WebDataset shards, tars as img2dataset writes them: read by number and never unpacked."""

import json
from typing import Any

from mmjax.data import storage
from mmjax.data.nearest import unknown_name
from mmjax.data.records import BadRecord, Record, check_index
from mmjax.data.sources import fields
from mmjax.data.sources.tar_index import tar_index
from mmjax.data.sources.tar_samples import CUT_OFF, DUPLICATE, Sample
from mmjax.errors import UserError

ANY_IMAGE, ANY_TEXT = "image", "text"
"""Keys with a meaning of their own: whichever member is an image, and the text member."""
IMAGE_KINDS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif")
TEXT_KINDS = ("txt",)
MOST_GAP_BYTES = 2**16
"""Between members of a sample that are read at once: a request costs more than so many bytes, wherever they lie."""


class WebDatasetSource:
    """A source over the tars of a pattern, in its order.

    Members of a sample share its key, and are told apart by what follows it. `image_key` names the one with the image
    ("image": whichever is one; "": none is read), `text_key` the one with the caption ("text": the `.txt`). Of the
    `.json` it names a field, "json/caption", which may be a list of captions.
    """

    def __init__(self, pattern: str, image_key: str = ANY_IMAGE, text_key: str = ANY_TEXT):
        self._index = tar_index(storage.find(pattern))
        self._image_kinds = IMAGE_KINDS if image_key == ANY_IMAGE else (image_key.lower(),) if image_key else ()
        kind, _, self._field = text_key.partition("/")
        self._text_kinds = TEXT_KINDS if text_key == ANY_TEXT else (kind.lower(),)
        self._check(pattern, "data.image_key", image_key, self._image_kinds)
        self._check(pattern, "data.text_key", text_key, self._text_kinds)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        check_index(index, self)
        sample = self._index[index]
        _check_state(sample)
        image_kind = _present(sample, self._image_kinds, "image") if self._image_kinds else None
        text_kind = _present(sample, self._text_kinds, "caption")
        read = _read(sample, [kind for kind in (image_kind, text_kind) if kind is not None])
        captions = fields.captions(self._text(read[text_kind]))
        image = None if image_kind is None else read[image_kind]
        return Record(image, captions, None, f"{sample.shard.address} {sample.key}")

    def _text(self, member: bytes) -> Any:
        try:
            text = member.decode()
        except UnicodeDecodeError as error:
            raise BadRecord("its caption is not UTF-8") from error
        if not self._field:
            return text.strip()
        try:
            return fields.field(json.loads(text), self._field)
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"its fields are not JSON ({error})") from error

    def _check(self, pattern: str, setting: str, key: str, kinds: tuple[str, ...]) -> None:
        known = self._index.kind_names
        if not known:
            raise UserError(f"{pattern} has no samples: their members are called KEY.jpg, KEY.txt and so on")
        if kinds and not any(kind in known for kind in kinds):
            raise unknown_name(f"{pattern}: {setting}", key, known)


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
