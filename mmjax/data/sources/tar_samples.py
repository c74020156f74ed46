"""The samples of one tar in WebDataset's convention, found by its headers alone."""

import itertools
import re
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mmjax.data import storage
from mmjax.data.storage import File
from mmjax.errors import UserError

SAMPLE_NAME = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]*)$")
"""The key is a member's name up to the first dot of its last part; what follows tells members of a sample apart."""
WHOLE, DUPLICATE, CUT_OFF = range(3)
"""What a sample is: usable; one whose key or member was in its shard before; what stands for the rest of a shard that
ends too early."""


class Member(NamedTuple):
    """One member of a sample: the sample's key, what tells it apart from others of it, and where it lies."""

    key: str
    kind: str
    offset: int
    num_bytes: int


class Sample(NamedTuple):
    """One sample: its shard, its key, where each member lies as (offset, bytes) by its kind, and what it is."""

    shard: File
    key: str
    members: dict[str, tuple[int, int]]
    state: int


def samples_of(shard: File) -> Iterator[Sample]:
    """The samples of one shard in its order: members of one key that follow each other.

    A key, or a member of it, that was there before makes a `DUPLICATE`. Where the shard ends without the blocks that
    end a tar, a sample without members, and with the last key, stands for what is lost.

    Raises:
        UserError: it is not a tar.
    """
    seen: set[str] = set()
    key = ""
    with storage.open_file(shard) as file:
        reader = _open_tar(file, shard)
        for key, members in itertools.groupby(_members(reader), lambda member: member.key):
            yield _sample(shard, key, list(members), key in seen)
            seen.add(key)
        if not _is_ended(file, reader.offset, shard.num_bytes):
            yield Sample(shard, key, {}, CUT_OFF)


def _sample(shard: File, key: str, members: Sequence[Member], was_there: bool) -> Sample:
    places = {member.kind: (member.offset, member.num_bytes) for member in members}
    return Sample(shard, key, places, DUPLICATE if was_there or len(places) < len(members) else WHOLE)


def _open_tar(file: Any, shard: File) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except tarfile.ReadError as error:
        raise UserError(
            f"{shard.address} is not a tar that can be read by index ({error}): unpack it if it is compressed, and "
            "fetch it again if it is empty or damaged"
        ) from error


def _members(reader: tarfile.TarFile) -> Iterator[Member]:
    """Those that belong to samples, up to where the tar can be read; links, and files with holes, are none."""
    while True:
        try:
            found = reader.next()
        except tarfile.ReadError:
            return
        if found is None:
            return
        # It keeps what it gave, and a shard may have more members than memory wants.
        reader.members.clear()  # type: ignore[attr-defined]
        match = SAMPLE_NAME.match(found.name)
        if match is not None and found.isfile() and not found.issparse():
            yield Member(match[1], match[2].lower(), found.offset_data, found.size)


def _is_ended(file: Any, offset: int, num_bytes: int) -> bool:
    """Whether the zeros that end a tar are what stopped the reading, and nothing but them follows.

    At anything else tarfile stops without a word; and where a disk lost what was written, zeros may stand for samples.
    """
    left = num_bytes - offset
    if not tarfile.BLOCKSIZE <= left <= 2 * tarfile.RECORDSIZE:
        return False
    file.seek(offset)
    return file.read(left) == bytes(left)
