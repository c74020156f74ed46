"""Where the samples of tar shards lie: found once, in parallel, kept in a folder, and read by number."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from mmjax.data.sources.tar_samples import Sample, samples_of
from mmjax.data.storage import File
from mmjax.errors import UserError

VERSION = 1
"""Of the files of an index: raise it when they change."""
NUM_SHARDS_AT_ONCE = 16
STARTS = ("first_samples", "first_members", "first_letters")
ARRAYS = (*STARTS, "kinds", "offsets", "sizes", "states", "letters")


@dataclass(frozen=True)
class TarIndex:
    """The samples of all shards, one after the other. With n shards, r samples, m members and c letters in all keys:

    first_samples (n + 1), first_members (r + 1) and first_letters (r + 1) say where the next one begins; kinds (m) are
    numbers of `kind_names`, offsets and sizes (m) in bytes, states (r) and letters (c) uint8.
    """

    shards: tuple[File, ...]
    kind_names: tuple[str, ...]
    arrays: dict[str, np.ndarray]

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


def tar_index(shards: Sequence[File]) -> TarIndex:
    """The index of these shards: read where there is one, and else made and kept.

    It lies beside shards of this machine, in `.mmjax`, and that of others, or where nothing may be written, in
    `$XDG_CACHE_HOME/mmjax` (`~/.cache/mmjax`).

    Raises:
        UserError: a shard is not a tar, or has another size than when the index was made.
    """
    name = hashlib.sha256(json.dumps([VERSION, *(shard.address for shard in shards)]).encode()).hexdigest()[:16]
    folders = [folder / f"tar-index-{name}" for folder in _folders(shards)]
    for folder in folders:
        if folder.is_dir():
            return _load(folder, shards)
    index = build(shards)
    _save(index, folders)
    return index


def _folders(shards: Sequence[File]) -> Iterator[Path]:
    if not any("://" in shard.address for shard in shards):
        beside = Path(os.path.commonpath([Path(shard.address).absolute().parent for shard in shards]))
        yield beside / ".mmjax"
    yield Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mmjax"


def _load(folder: Path, shards: Sequence[File]) -> TarIndex:
    facts = json.loads((folder / "index.json").read_text())
    for shard, known in zip(shards, facts["shards"], strict=True):
        if shard.num_bytes != known["num_bytes"]:
            raise UserError(
                f"{shard.address} has {shard.num_bytes} bytes, and had {known['num_bytes']} when its index was made: "
                f"if it is right as it is now, delete {folder}"
            )
    # Mapped: processes of one machine share the pages, and only what is asked for is read.
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    return TarIndex(tuple(shards), tuple(facts["kind_names"]), arrays)


def _save(index: TarIndex, folders: Sequence[Path]) -> None:
    """In the first folder that can be made; whole or not at all, whoever else makes the same one."""
    for folder in folders:
        try:
            written = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
            written.mkdir(parents=True)
        except OSError:
            if folder == folders[-1]:
                raise
            continue
        facts = {"shards": [asdict(shard) for shard in index.shards], "kind_names": index.kind_names}
        (written / "index.json").write_text(json.dumps(facts))
        for name, array in index.arrays.items():
            np.save(written / f"{name}.npy", array)
        try:
            written.rename(folder)
        except OSError:
            # Another process was faster: its index is the same.
            shutil.rmtree(written)
            if not folder.is_dir():
                raise
        return


def build(shards: Sequence[File]) -> TarIndex:
    """The index of these shards, read from their headers, several at a time."""
    with ThreadPoolExecutor(NUM_SHARDS_AT_ONCE) as threads:
        parts = threads.map(_index_of, shards)
        console = Console(stderr=True)
        shown = track(
            parts, "index of tars", len(shards), console=console, transient=True, disable=not console.is_terminal
        )
        return _joined(list(shown))


def _index_of(shard: File) -> TarIndex:
    samples = list(samples_of(shard))
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
