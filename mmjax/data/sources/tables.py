"""Records of a table that names an image and its captions in each row."""

from collections.abc import Mapping
from typing import Any

from mmjax.data import storage
from mmjax.data.nearest import unknown_name
from mmjax.data.records import BadRecord, Record, check_index
from mmjax.data.sources import fields
from mmjax.data.sources.fields import LICENCE_SETTING, NOTHING
from mmjax.data.sources.rows import CsvRows, JsonLines, Rows
from mmjax.data.storage import File
from mmjax.errors import UserError

NUM_LOOKED_AT = 100
"""Rows, of which at least one has to have the columns."""


class TableSource:
    """A source over the rows of one file, lines of JSON ("jsonl") or a CSV ("csv").

    `image_key` names the column with an image's path, relative to the table, absolute, or an address, or of JSON a list
    of those of a video's frames; "" reads none.
    `text_key` names the one with a caption or, of JSON, a list of them, `licence_key` that with the image's licence
    ("" is none); "captions/en" reaches into nested fields. Rows and images are read when asked for. `image_setting` is
    what messages call the first of them.

    Raises:
        UserError: the table cannot be read, is empty, or has no such column.
    """

    def __init__(
        self,
        table: File,
        kind: str,
        image_key: str,
        text_key: str,
        licence_key: str = "",
        image_setting: str = "data.image_key",
    ):
        self._table, self._image_key, self._text_key, self._licence_key = table, image_key, text_key, licence_key
        self._folder = storage.folder_of(table.address)
        self._rows: Rows = CsvRows(table) if kind == "csv" else JsonLines(table)
        self._check({image_setting: image_key, "data.text_key": text_key, LICENCE_SETTING: licence_key})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        check_index(index, self)
        row = self._rows[index]
        captions, name = fields.captions(fields.field(row, self._text_key)), f"{self._table.address} row {index}"
        licence = fields.licence(row, self._licence_key)
        seen = fields.pixels(fields.field(row, self._image_key), self._folder) if self._image_key else NOTHING
        name = seen.path or name
        return Record(seen.image, captions, None, name, path=seen.path, frames=seen.frames, licence=licence)

    def _check(self, keys: Mapping[str, str]) -> None:
        columns = {setting: key.partition("/")[0] for setting, key in keys.items() if key}
        if not self._text_key:
            raise UserError(f"{self._table.address}: data.text_key is empty: name the column with the captions")
        if not len(self._rows):
            wanted = " and ".join(map(repr, columns.values()))
            raise UserError(f"{self._table.address} is empty: write a line with {wanted} an image")
        rows = [row for row in map(self._columns_of, range(min(NUM_LOOKED_AT, len(self._rows)))) if row]
        if not rows:
            raise UserError(f"{self._table.address} has no row that can be read: is it what data.source says?")
        for setting, column in columns.items():
            if not any(column in row for row in rows):
                raise unknown_name(f"{self._table.address}: {setting}", column, rows[0])

    def _columns_of(self, number: int) -> Mapping[str, Any]:
        try:
            return self._rows[number]
        except BadRecord:
            return {}
