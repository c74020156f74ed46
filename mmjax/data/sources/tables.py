"""Records of a table that names an image and its captions in each row."""

from collections.abc import Mapping
from typing import Any

from mmjax.data import storage
from mmjax.data.nearest import unknown_name
from mmjax.data.records import BadRecord, Record, check_index
from mmjax.data.sources import fields
from mmjax.data.sources.fields import IMAGE_SETTING, Keys
from mmjax.data.sources.rows import CsvRows, JsonLines, Rows
from mmjax.data.storage import File
from mmjax.errors import UserError

NUM_LOOKED_AT = 100
"""Rows, of which at least one has to have the columns."""


class TableSource:
    """A source over the rows of one file, lines of JSON ("jsonl") or a CSV ("csv").

    Images are paths, relative to the table, absolute, or addresses, of JSON also lists of those of a video's frames;
    "captions/en" reaches into nested fields. Rows and images are read when asked for. `image_setting` is what messages
    call the column of images.

    Raises:
        UserError: the table cannot be read, is empty, or has no such column.
    """

    def __init__(self, table: File, kind: str, keys: Keys, image_setting: str = IMAGE_SETTING):
        self._table, self._keys = table, keys
        self._folder = storage.folder_of(table.address)
        self._rows: Rows = CsvRows(table) if kind == "csv" else JsonLines(table)
        self._check(keys.columns(image_setting))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        check_index(index, self)
        row = self._rows[index]
        captions, licence = fields.captions(fields.field(row, self._keys.text)), fields.licence(row, self._keys.licence)
        seen = fields.pixels(row, self._keys, self._folder)
        name = seen.path or f"{self._table.address} row {index}"
        return Record(seen.image, captions, None, name, frames=seen.frames, licence=licence)

    def _check(self, columns: Mapping[str, str]) -> None:
        if not self._keys.text:
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
