"""The data sets of training, opened for an index: `mmjax.data` is numpy, and needs no jax."""

from pathlib import Path
from typing import Any

from mmjax.data import storage
from mmjax.data.nearest import unknown_name
from mmjax.data.records import BadRecord, Record
from mmjax.data.sources import imagefolder
from mmjax.errors import UserError

FLAT_SPLIT = imagefolder.FLAT_SPLIT


class InsideFolder:
    """Records without those whose image is a file outside the data set's folder.

    A line may name "../x" or a link: an index of a data set from elsewhere would show files of this machine.
    """

    def __init__(self, records: Any, folder: str):
        self._records, self._folder = records, folder

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record: Record = self._records[index]
        if record.path is not None and not _is_inside(record.path, self._folder):
            raise BadRecord(f"{record.path} lies outside {self._folder}: copy the image into the folder")
        return record


def _is_inside(address: str, folder: str) -> bool:
    if storage.is_remote(folder):
        return address.startswith(f"{folder}/") and ".." not in address.split("/")
    return not storage.is_remote(address) and Path(address).resolve().is_relative_to(Path(folder).resolve())


def open_records(spec: str, split: str | None) -> Any:
    """Records by index of a `data.source` of training.

    split: by default "train", or the only one there is.

    Raises:
        UserError: unknown or incomplete specification, unknown split, missing data, or a missing package.
    """
    kind, _, given = spec.partition(":")
    place = storage.local_path(given)
    try:
        if kind == "imagefolder" and given:
            splits = tuple(imagefolder.find_splits(Path(place)))
            return InsideFolder(imagefolder.image_folder(Path(place), _chosen(split, splits, spec)), place)
        from mmjax.data.sources import specs  # Here, because most formats need more packages.

        records = specs.open_source(spec, _chosen(split, specs.list_splits(spec), spec))
    except ModuleNotFoundError as error:
        raise UserError(
            f"--data {spec} needs {error.name}: pip install -r requirements-serving.txt, or use imagefolder:DIR"
        ) from error
    return InsideFolder(records, place if kind == "hfds" else storage.folder_of(place))


def _chosen(split: str | None, known: tuple[str, ...], spec: str) -> str:
    if split is not None and (split in known or not spec.startswith("imagefolder")):
        return split
    if split is None and (FLAT_SPLIT in known or len(known) == 1):
        return FLAT_SPLIT if FLAT_SPLIT in known else known[0]
    raise unknown_name(f"--data {spec}: --split", split or "", known)
