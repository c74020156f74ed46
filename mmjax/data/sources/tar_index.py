"""Where the samples of tar shards lie: found once, in parallel, kept in a folder, and read by number."""

import hashlib
import json
import os
import posixpath
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import loky
import numpy as np
from rich.console import Console
from rich.progress import track

from mmjax.data import storage
from mmjax.data.cores import num_cores
from mmjax.data.sources.tar_samples import Sample, samples_of
from mmjax.data.storage import File
from mmjax.errors import UserError

VERSION = 2
"""Of the files of an index: raise it when they change."""
NUM_SHARDS_AT_ONCE = 16
MANY_SHARDS = 64
"""Whose headers take longer to read than processes to start."""
STARTS = ("first_samples", "first_members", "first_letters")
ARRAYS = (*STARTS, "kinds", "offsets", "sizes", "states", "letters")


@dataclass(frozen=True)
class TarIndex:
    """The samples of all shards, one after the other. With n shards, r samples, m members and c letters in all keys:

    first_samples (n + 1), first_members (r + 1) and first_letters (r + 1) say where the next one begins; kinds (m) are
    numbers of `kind_names`, offsets and sizes (m) in bytes, states (r) and letters (c) uint8. A copy of one that was
    read from `folder` maps it again, wherever the copy is.
    """

    shards: tuple[File, ...]
    kind_names: tuple[str, ...]
    arrays: dict[str, np.ndarray]
    folder: Path | None = None

    def __reduce__(self) -> str | tuple[Any, ...]:
        return super().__reduce__() if self.folder is None else (_load, (self.folder, self.shards))

    def __len__(self) -> int:
        return len(self.arrays["states"])

    def __getitem__(self, number: int) -> Sample:
        first_samples, first_members, first_letters = (self.arrays[name] for name in STARTS)
        shard = int(np.searchsorted(first_samples, number, side="right")) - 1
        members = range(int(first_members[number]), int(first_members[number + 1]))
        places = {
            self.kind_names[self.arrays["kinds"][member]]: (
                int(self.arrays["offsets"][member]),
                int(self.arrays["sizes"][member]),
            )
            for member in members
        }
        letters = self.arrays["letters"][first_letters[number] : first_letters[number + 1]]
        key = letters.tobytes().decode(errors="replace")
        return Sample(self.shards[shard], key, places, int(self.arrays["states"][number]))

    def part(self, numbers: range) -> "TarIndex":
        """The index of these samples alone, which a process elsewhere can be given."""
        first_samples, first_members, first_letters = (self.arrays[name] for name in STARTS)
        edges = np.clip(first_samples, numbers.start, numbers.stop)
        touched = np.flatnonzero(np.diff(edges))
        shards = slice(touched[0], touched[-1] + 1) if len(touched) else slice(0, 0)
        samples, around = slice(numbers.start, numbers.stop), slice(numbers.start, numbers.stop + 1)
        members = slice(first_members[numbers.start], first_members[numbers.stop])
        letters = slice(first_letters[numbers.start], first_letters[numbers.stop])
        arrays = {
            "first_samples": edges[shards.start : shards.stop + 1] - numbers.start,
            "first_members": first_members[around] - first_members[numbers.start],
            "first_letters": first_letters[around] - first_letters[numbers.start],
            "kinds": self.arrays["kinds"][members],
            "offsets": self.arrays["offsets"][members],
            "sizes": self.arrays["sizes"][members],
            "states": self.arrays["states"][samples],
            "letters": self.arrays["letters"][letters],
        }
        return TarIndex(self.shards[shards], self.kind_names, arrays)


def tar_index(shards: Sequence[File]) -> TarIndex:
    """The index of these shards: read where there is one, and else made and kept.

    It lies beside shards that are all in one folder of this machine, in `.mmjax`; of others, or where nothing may be
    written, in `$XDG_CACHE_HOME/mmjax` (`~/.cache/mmjax`).

    Raises:
        UserError: a shard is not a tar, was written anew since the index was made, or the index cannot be kept.
    """
    name = hashlib.sha256(json.dumps([VERSION, *(shard.address for shard in shards)]).encode()).hexdigest()[:16]
    folders = [folder / f"tar-index-{name}" for folder in _folders(shards)]
    for folder in folders:
        if _is_there(folder):
            return _load(folder, shards)
    # Where it goes is known before the work is done.
    place = _writable(folders)
    try:
        return _load(_save(build(shards), *place), shards)
    finally:
        shutil.rmtree(place[0], ignore_errors=True)


def _folders(shards: Sequence[File]) -> Iterator[Path]:
    parents = {posixpath.dirname(shard.address) for shard in shards}
    if len(parents) == 1 and not storage.is_remote(shards[0].address):
        yield Path(*parents) / ".mmjax"
    yield Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mmjax"


def _is_there(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:
        # Closed to this user: then it is not there for them.
        return False


def _load(folder: Path, shards: Sequence[File]) -> TarIndex:
    try:
        facts = json.loads((folder / "index.json").read_text())
        # Mapped: processes of one machine share the pages, and only what is asked for is read.
        # As plain arrays, of which numpy gives single numbers ten times as fast.
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in ARRAYS}
        known_shards = [File(**known) for known in facts["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the index {folder} is damaged ({error}): delete it, and it is made again") from error
    for shard, known in zip(shards, known_shards, strict=True):
        if shard != known:
            raise UserError(
                f"{shard.address} was written anew since its index was made ({known.num_bytes} bytes then, "
                f"{shard.num_bytes} now): if it is right as it is, delete {folder}"
            )
    return TarIndex(tuple(shards), tuple(facts["kind_names"]), arrays, folder)


def _writable(folders: Sequence[Path]) -> tuple[Path, Path]:
    """A new folder to write an index in, and the one of `folders` that it is to become."""
    for folder in folders:
        written = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
        try:
            written.mkdir(parents=True)
        except OSError as error:
            problem = error
            continue
        return written, folder
    raise UserError(
        f"the index of tars cannot be kept in {folders[-1].parent} ({problem.strerror}): set XDG_CACHE_HOME to a "
        "folder that may be written"
    ) from problem


def _save(index: TarIndex, written: Path, folder: Path) -> Path:
    """The folder that the index is in: whole or not at all, whoever else makes the same one."""
    try:
        facts = {"shards": [asdict(shard) for shard in index.shards], "kind_names": index.kind_names}
        (written / "index.json").write_text(json.dumps(facts))
        for name, array in index.arrays.items():
            np.save(written / f"{name}.npy", array)
    except OSError as error:
        raise UserError(
            f"the index of tars cannot be written to {folder.parent} ({error.strerror}): make room there"
        ) from error
    try:
        written.rename(folder)
    except OSError:
        # Another process was faster: its index is the same.
        if not folder.is_dir():
            raise
    return folder


def build(shards: Sequence[File]) -> TarIndex:
    """The index of these shards, read from their headers, several at a time: of many here by all cores, and of those
    that lie elsewhere, whose bytes are waited for, by threads."""
    many_here = len(shards) >= MANY_SHARDS and not storage.is_remote(shards[0].address)
    with _processes() if many_here else ThreadPoolExecutor(NUM_SHARDS_AT_ONCE) as pool:
        parts = pool.map(_index_of, shards)
        console = Console(stderr=True)
        shown = track(
            parts, "index of tars", len(shards), console=console, transient=True, disable=not console.is_terminal
        )
        return _joined(list(shown))


def _processes() -> Executor:
    # Not forked, as JAX has threads whose locks a copy would keep; and Python's own way to start anew runs the main
    # program again, which is right for one that expects it alone.
    return loky.ProcessPoolExecutor(num_cores())


def _index_of(shard: File) -> TarIndex:
    samples = storage.patiently(lambda: list(samples_of(shard)), shard.address)
    members = [(kind, *place) for sample in samples for kind, place in sample.members.items()]
    kind_names = tuple(sorted({kind for kind, _, _ in members}))
    keys = [sample.key.encode(errors="surrogateescape") for sample in samples]
    arrays = {
        "first_samples": _starts([len(samples)]),
        "first_members": _starts([len(sample.members) for sample in samples]),
        "kinds": np.array([kind_names.index(kind) for kind, _, _ in members], np.uint32),
        "offsets": np.array([offset for _, offset, _ in members], np.int64),
        "sizes": np.array([size for _, _, size in members], np.int64),
        "states": np.array([sample.state for sample in samples], np.uint8),
        "first_letters": _starts([len(key) for key in keys]),
        "letters": np.frombuffer(b"".join(keys), np.uint8),
    }
    return TarIndex((shard,), kind_names, arrays)


def _joined(parts: Sequence[TarIndex]) -> TarIndex:
    kind_names = tuple(sorted({kind for part in parts for kind in part.kind_names}))
    number_of = {kind: number for number, kind in enumerate(kind_names)}
    renamed = [
        np.array([number_of[kind] for kind in part.kind_names], np.uint32)[part.arrays["kinds"]] for part in parts
    ]
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in ARRAYS if name not in STARTS}
    starts = {name: _starts(np.concatenate([np.diff(part.arrays[name]) for part in parts])) for name in STARTS}
    shards = tuple(shard for part in parts for shard in part.shards)
    return TarIndex(shards, kind_names, {**arrays, **starts, "kinds": np.concatenate(renamed)})


def _starts(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each begins, and the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
