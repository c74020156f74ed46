"""Records of a folder in the Hugging Face ImageFolder convention: images, and a metadata file that captions them."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data.nearest import unknown_name
from mmjax.data.records import BadRecord, Record, Unreachable, require_caption
from mmjax.errors import UserError

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
FILE_KEY = "file_name"
FLAT_SPLIT = "train"
FINAL = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
"""What a file system says of a file, while it is there itself; any other error may pass."""


class ImageFolderSource:
    """A source over `folder/SPLIT/metadata.jsonl`, or `folder/metadata.jsonl`, which is the split "train".

    Each line has `file_name`, relative to the metadata file, and `text_key`: a caption or a list of them.
    `metadata.csv` with those columns does as well. Lines and images are read when asked for.
    """

    def __init__(self, folder: Path, split: str, text_key: str = "text"):
        self._metadata = _metadata_of(folder, split)
        self._text_key = text_key
        self._rows = _read_rows(self._metadata)
        self._check_rows()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        row = _parse_row(self._rows[index])
        for key in (FILE_KEY, self._text_key):
            if key not in row:
                raise BadRecord(f"its line in {self._metadata} has no {key!r}")
        path = self._metadata.parent / str(row[FILE_KEY])
        text = row[self._text_key]
        captions = tuple(require_caption(caption) for caption in (text if isinstance(text, list) and text else [text]))
        return Record(_read_image(path, self._metadata.parent), captions, None, str(path))

    def _check_rows(self) -> None:
        if not self._rows:
            raise UserError(
                f"{self._metadata} is empty: write a line with {FILE_KEY!r} and {self._text_key!r} an image"
            )
        rows = [row for row in map(_keys_of, self._rows[:100]) if row]
        for setting, key in (("column", FILE_KEY), ("data.text_key", self._text_key)):
            if rows and not any(key in row for row in rows):
                raise unknown_name(f"{self._metadata}: {setting}", key, rows[0])


def find_splits(folder: Path) -> dict[str, Path]:
    """Returns {split: its metadata file}; raises UserError when the folder has none."""
    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist: check the path in data.source")
    splits: dict[str, Path] = {}
    for name in reversed(METADATA_NAMES):  # The first name is read where a folder has both.
        splits |= {path.parent.name: path for path in sorted(folder.glob(f"*/{name}"))}
    for path in (folder / name for name in reversed(METADATA_NAMES)):
        if path.is_file():
            splits[FLAT_SPLIT] = path
    if not splits:
        raise UserError(
            f"{folder} has no metadata.jsonl: write one line per image, "
            f'{{"{FILE_KEY}": "0001.png", "text": "a caption"}}'
        )
    return splits


def _metadata_of(folder: Path, split: str) -> Path:
    splits = find_splits(folder)
    if split not in splits:
        raise unknown_name(f"{folder}: split", split, splits)
    return splits[split]


def _read_rows(metadata: Path) -> list[bytes] | list[dict[str, Any]]:
    if metadata.suffix == ".csv":
        with metadata.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    # Kept as bytes: a line that is not JSON, or not even UTF-8, is one bad record and not a file that cannot be read.
    return [line for line in metadata.read_bytes().splitlines() if line.strip()]


def _parse_row(row: bytes | dict[str, Any]) -> Mapping[str, Any]:
    if isinstance(row, dict):
        return row
    try:
        parsed = json.loads(row)
    except ValueError as error:
        raise BadRecord(f"its metadata line is not JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise BadRecord("its metadata line is not a JSON object")
    return parsed


def _keys_of(row: bytes | dict[str, Any]) -> Mapping[str, Any]:
    try:
        return _parse_row(row)
    except BadRecord:
        return {}


def _read_image(path: Path, folder: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror})"
        if isinstance(error, FINAL) and folder.is_dir():
            raise BadRecord(problem) from error
        raise Unreachable(problem) from error
