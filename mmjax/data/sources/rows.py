"""Rows of a table by number: lines of JSON, which are read when asked for, or of a CSV, which is held in memory."""

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np

from mmjax.data import storage
from mmjax.data.records import BadRecord
from mmjax.data.storage import File
from mmjax.errors import UserError

CHUNK_BYTES = 2**22
NEWLINE, BLANK = ord("\n"), ord(" ")
"""Up to the latter no byte is a letter."""
LONGEST_FIELD = 2**27
"""Of a CSV, in letters: Python's own limit of 2**17 would end the reading at one long caption."""


class Rows(Protocol):
    """Rows by number, as {column: value}; a row that is none raises BadRecord."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Mapping[str, Any]: ...


class JsonLines:
    """A file with a JSON object a line; blank lines are no rows. Kept are the places of the lines alone."""

    def __init__(self, file: File):
        self._file = file
        self._starts, self._sizes = storage.patiently(lambda: _lines(file), file.address)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        line = storage.read(self._file, int(self._starts[number]), int(self._sizes[number]))
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"its metadata line is not JSON ({error})") from error
        if not isinstance(parsed, dict):
            raise BadRecord("its metadata line is not a JSON object")
        return parsed


class CsvRows:
    """A file whose first line names the columns, with commas in between, or tabs where it is called `.tsv`.

    What has a comma, a tab or a line in it stands in double quotes, as Python's csv writes it.
    """

    def __init__(self, file: File):
        is_tsv = PurePosixPath(file.address.partition("?")[0]).suffix.lower() == ".tsv"
        self._columns, self._rows = storage.patiently(lambda: _parse_csv(file, "\t" if is_tsv else ","), file.address)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        row = self._rows[number]
        if len(row) != len(self._columns):
            raise BadRecord(f"its row has {len(row)} values for {len(self._columns)} columns")
        return dict(zip(self._columns, row, strict=True))


def _lines(file: File) -> tuple[np.ndarray, np.ndarray]:
    """Where each line begins, and its bytes without the end of line, of those that are not blank."""
    # A newline behind the last line, too; of lines that are blank, no letter comes between two ends.
    ends, letters, place, num_letters = [], [], 0, 0
    with storage.open_file(file) as opened:
        for chunk in itertools.chain(iter(lambda: opened.read(CHUNK_BYTES), b""), [b"\n"]):
            content = np.frombuffer(chunk, np.uint8)
            here = np.flatnonzero(content == NEWLINE)
            ends.append(place + here)
            letters.append(num_letters + np.cumsum(content > BLANK, dtype=np.int64)[here])
            place, num_letters = place + len(chunk), num_letters + int(np.count_nonzero(content > BLANK))
    stops = np.concatenate(ends)
    starts = np.concatenate([np.zeros(1, np.int64), stops[:-1] + 1])
    kept = np.diff(np.concatenate(letters), prepend=0) > 0
    return starts[kept], (stops - starts)[kept]


def _parse_csv(file: File, delimiter: str) -> tuple[list[str], Sequence[Sequence[str]]]:
    csv.field_size_limit(LONGEST_FIELD)
    with storage.open_file(file) as opened:
        # What is not UTF-8 is one bad caption, and not a file that cannot be read.
        text = io.TextIOWrapper(opened, "utf-8-sig", errors="surrogateescape", newline="")
        try:
            rows = [row for row in csv.reader(text, delimiter=delimiter, strict=True) if row]
        except csv.Error as error:
            raise UserError(
                f"{file.address} is not a table ({error}): write it again with Python's csv, or as lines of JSON"
            ) from error
    return (rows[0], rows[1:]) if rows else ([], [])
