"""One part of a preparation: what a process does of it, here or on another machine, and what it is given for that."""

import functools
import itertools
import json

import numpy as np

from mmjax.data.patience import PatientSource
from mmjax.data.prepare import facts, shards
from mmjax.data.prepare.folder import Folder
from mmjax.data.prepare.settings import Settings
from mmjax.data.records import Record, Source
from mmjax.data.sources.slices import part_of
from mmjax.data.sources.specs import open_source


def opened(settings: Settings) -> Source:
    return open_source(
        settings.source,
        settings.split,
        image_key=settings.image_key,
        text_key=settings.text_key,
        licence_key=settings.licence_key,
    )


def parts_of(num_records: int, num_parts: int) -> list[range]:
    """Consecutive parts of nearly equal size."""
    edges = [part * num_records // num_parts for part in range(num_parts + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(edges)]


class Carried:
    """The records of one part of a source, by their numbers in the whole: what a job takes to another machine."""

    def __init__(self, part: Source, start: int):
        self._part, self._start = part, start

    def __len__(self) -> int:
        return self._start + len(self._part)

    def __getitem__(self, index: int) -> Record:
        return self._part[index - self._start]


def carried(source: Source, numbers: range) -> Source | None:
    """None of sources that are opened anew wherever they are read."""
    part = part_of(source, numbers)
    return None if part is None else Carried(part, numbers.start)


def around(numbers: np.ndarray) -> range:
    return range(int(numbers[0]), int(numbers[-1]) + 1) if len(numbers) else range(0)


def gather_part(settings: Settings, part: Source | None, numbers: range, folder: Folder, name: str) -> None:
    if not folder.exists(name):
        folder.write(name, facts.gather(settings, _patient(settings, part), numbers).to_bytes())


def write_part(
    settings: Settings, part: Source | None, numbers: np.ndarray, folder: Folder, shard: int, name: str
) -> None:
    if not folder.exists(name):
        with folder.filled() as made:
            written = shards.write(settings, _patient(settings, part), numbers.tolist(), made, shard)
        folder.write(name, json.dumps(written._asdict()).encode())


def _patient(settings: Settings, part: Source | None) -> Source:
    return PatientSource(opened_here(settings) if part is None else part)


@functools.lru_cache(maxsize=4)
def opened_here(settings: Settings) -> Source:
    """The source, opened once by each process that reads parts of it."""
    return opened(settings)
