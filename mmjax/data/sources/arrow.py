"""Records of Hugging Face `datasets`: folders that `save_to_disk` wrote, and Parquet files, both mapped from disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data import storage
from mmjax.data.nearest import unknown_name
from mmjax.data.optional import imported
from mmjax.data.records import BadRecord, Record, check_index
from mmjax.data.sources import fields, slices
from mmjax.data.sources.fields import Keys
from mmjax.errors import UserError


class ArrowSource:
    """A source over the rows of a `datasets.Dataset`, called `where` in messages.

    Images are images of `datasets`, encoded bytes, paths (relative to `folder`, absolute, or addresses), or lists of
    these, the frames of videos. Captions are texts, lists of them, or a class label, whose name is the caption;
    "captions/en" reaches into nested fields. The class name of a record is that of the one class label, if there is
    exactly one.

    Raises:
        UserError: there is no such column, or no row.
    """

    def __init__(self, rows: Any, where: str, keys: Keys, folder: str = ""):
        self._where, self._keys, self._folder = where, keys, folder
        columns = keys.columns()
        for setting, column in columns.items():
            if column not in rows.column_names:
                raise unknown_name(f"{where}: {setting}", column, rows.column_names)
        if not len(rows):
            raise UserError(f"{where} is empty: choose another split, or write some rows")
        self._names = {column: kind.names for column, kind in rows.features.items() if hasattr(kind, "int2str")}
        wanted = {*columns.values(), *self._names}
        self._rows = _encoded(rows.select_columns([column for column in rows.column_names if column in wanted]))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        check_index(index, self)
        row = self._row(index)
        captions = fields.captions(self._text(row))
        seen, name = fields.pixels(row, self._keys, self._folder), f"{self._where} record {index}"
        licence = self._licence(row)
        return Record(seen.image, captions, self._class_name(row), name, frames=seen.frames, licence=licence)

    def _row(self, index: int) -> Mapping[str, Any]:
        try:
            found = self._rows[index]
            # Lists of images come as Arrow has them.
            row: Mapping[str, Any] = found if isinstance(found, Mapping) else found.to_pylist()[0]
            return row
        except UnicodeDecodeError as error:
            raise BadRecord("its caption is not UTF-8") from error
        except (OSError, ValueError) as error:
            raise BadRecord(f"it cannot be read: {error}") from error

    def _text(self, row: Mapping[str, Any]) -> Any:
        value = fields.field(row, self._keys.text)
        names = self._names.get(self._keys.text)
        return value if names is None or value is None else fields.class_name(names, value)

    def _licence(self, row: Mapping[str, Any]) -> str:
        names, value = self._names.get(self._keys.licence), fields.licence(row, self._keys.licence)
        return value if names is None or not value else fields.class_name(names, int(value))

    def _class_name(self, row: Mapping[str, Any]) -> str | None:
        if len(self._names) != 1:
            return None
        ((column, names),) = self._names.items()
        return None if row[column] is None else fields.class_name(names, row[column]) or None


def saved(folder: Path, split: str, keys: Keys) -> Any:
    """A source over one split of what `save_to_disk` wrote, or over a part of it ("train[:90%]")."""
    splits = _load(folder)
    name = split.partition("[")[0]
    if name not in splits:
        raise unknown_name(f"{folder}: split", name, splits)
    source = ArrowSource(splits[name], f"{folder} [{name}]", keys, str(folder))
    return slices.sliced(source, split, str(folder), whole=name)


def saved_splits(folder: Path) -> tuple[str, ...]:
    """Their names; a data set without any is "train"."""
    return tuple(_load(folder))


def parquet(pattern: str, split: str, keys: Keys) -> Any:
    """A source over the rows of all files of a pattern, in its order, or over a part of them.

    Parquet has no access by row: `datasets` writes the rows once into its cache, as Arrow, and maps them from there.
    """
    datasets, files = _datasets(), storage.find(pattern)
    addresses = [file.address for file in files]
    try:
        rows = datasets.load_dataset("parquet", data_files=addresses, split=slices.WHOLE)
    except Exception as error:  # It wraps what Arrow, a storage, or the disk said, each in errors of its own.
        raise UserError(f"{pattern} cannot be read as Parquet ({_reason(error)}): check the files") from error
    folder = storage.folder_of(addresses[0])
    return slices.sliced(ArrowSource(rows, pattern, keys, folder), split, pattern)


def _load(folder: Path) -> Mapping[str, Any]:
    datasets = _datasets()
    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist: check the path in data.source")
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # As above.
        raise UserError(
            f"{folder} cannot be read ({_reason(error)}): give the folder that save_to_disk wrote"
        ) from error
    return found if isinstance(found, Mapping) else {slices.WHOLE: found}


def _encoded(rows: Any) -> Any:
    """The rows with images left as they are stored."""
    for column, kind in rows.features.items():
        if _is_decoded(kind):
            rows = rows.cast_column(column, type(kind)(decode=False))
    # To cast a list of images would write all of them anew.
    has_lists = any(_is_decoded(getattr(kind, "feature", None)) for kind in rows.features.values())
    return rows.with_format("arrow") if has_lists else rows


def _is_decoded(kind: Any) -> bool:
    return hasattr(kind, "decode") and hasattr(kind, "encode_example")


def _datasets() -> Any:
    (datasets,) = imported("hfds: or parquet:", "requirements-hf.txt", "datasets")
    return datasets


def _reason(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())
