"""Tars in WebDataset's convention, written member by member."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.data.tiny_sources import png

Member = tuple[str, bytes]


def write_tar(path: Path, members: Iterable[Member]) -> Path:
    """A tar of these files; names may come twice."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            facts = tarfile.TarInfo(name)
            facts.size = len(content)
            tar.addfile(facts, io.BytesIO(content))
    return path


def sample(key: str, number: int, **fields: object) -> list[Member]:
    """The members that img2dataset writes of one: an image of its own, the caption "thing NUMBER", and fields."""
    caption = f"thing {number}"
    described: Mapping[str, object] = {"caption": caption, "key": key, **fields}
    return [
        (f"{key}.jpg", png(number)),
        (f"{key}.txt", caption.encode()),
        (f"{key}.json", json.dumps(described).encode()),
    ]


def write_shards(folder: Path, num_shards: int = 3, num_samples: int = 4) -> str:
    """Tars `00000.tar`, ..., whose samples are numbered through; their pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(num_shards):
        numbers = range(shard * num_samples, (shard + 1) * num_samples)
        members = [member for number in numbers for member in sample(f"{number:09d}", number)]
        write_tar(folder / f"{shard:05d}.tar", members)
    return f"{folder}/{{00000..{num_shards - 1:05d}}}.tar"
