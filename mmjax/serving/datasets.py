"""The data sets of training, opened for an index: `mmjax.data` is numpy, and needs no jax."""

from pathlib import Path
from typing import Any

from mmjax.data import imagefolder
from mmjax.data.nearest import unknown_name
from mmjax.data.records import BadRecord, Record
from mmjax.errors import UserError

FLAT_SPLIT = imagefolder.FLAT_SPLIT


class InsideFolder:
    """An image folder's records, without those whose image lies outside the folder.

    A line may name "../x" or a link: an index of a data set from elsewhere would show files of this machine.
    """

    def __init__(self, folder: Path, split: str):
        self._records = imagefolder.ImageFolderSource(folder, split)
        self._folder = folder.resolve()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        if not Path(record.name).resolve().is_relative_to(self._folder):
            raise BadRecord(f"{record.name} lies outside {self._folder}: copy the image into the folder")
        return record


def open_records(spec: str, split: str | None) -> Any:
    """Records by index of "imagefolder:DIR", "emoji" or "tfds:DIR".

    split: by default "train", or the only one there is.

    Raises:
        UserError: unknown or incomplete specification, unknown split, missing data, or a missing package.
    """
    kind, _, folder = spec.partition(":")
    if kind == "imagefolder" and folder:
        path = Path(folder).expanduser()
        return InsideFolder(path, _chosen(split, tuple(imagefolder.find_splits(path)), spec))
    try:
        from mmjax.data import sources  # Here, because emoji and tfds alone need TFDS.

        return sources.open_source(spec, _chosen(split, sources.list_splits(spec), spec))
    except ModuleNotFoundError as error:
        raise UserError(
            f"--data {spec} needs {error.name}: pip install -r requirements-serving.txt, or use imagefolder:DIR"
        ) from error


def _chosen(split: str | None, known: tuple[str, ...], spec: str) -> str:
    if split is not None and (split in known or not spec.startswith("imagefolder")):
        return split
    if split is None and (FLAT_SPLIT in known or len(known) == 1):
        return FLAT_SPLIT if FLAT_SPLIT in known else known[0]
    raise unknown_name(f"--data {spec}: --split", split or "", known)
