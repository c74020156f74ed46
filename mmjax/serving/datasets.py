"""The data sets of training, opened for an index: `mmjax.data` is numpy, and needs no jax."""

from pathlib import Path

from mmjax.data import storage
from mmjax.data.nearest import unknown_name
from mmjax.data.patience import PatientSource
from mmjax.data.records import Source
from mmjax.data.sources import imagefolder
from mmjax.data.sources.fields import Keys
from mmjax.errors import UserError

FLAT_SPLIT = imagefolder.FLAT_SPLIT


def open_records(spec: str, split: str | None, image_key: str = "image", text_key: str = "text") -> Source:
    """Records by index of a `data.source` of training, tried again while they cannot be reached.

    split: by default "train", or the only one there is. No file outside the data set's folder is read for an image: a
    line may name "../x" or a link, and an index of a data set from elsewhere would show files of this machine.

    Raises:
        UserError: unknown or incomplete specification, unknown split, missing data, or a missing package.
    """
    kind, _, given = spec.partition(":")
    place = storage.local_path(given)
    try:
        if kind == "imagefolder" and given:
            splits = tuple(imagefolder.find_splits(Path(place)))
            found: Source = imagefolder.image_folder(
                Path(place), _chosen(split, splits, spec), Keys(text=text_key, within=place)
            )
            return PatientSource(found)
        from mmjax.data.sources import specs  # Here, because most formats need more packages.

        within = place if kind == "hfds" else storage.folder_of(place)
        if kind in ("csv", "jsonl", "parquet"):
            within = storage.folder_of(storage.find(place)[0].address)
        chosen = _chosen(split, specs.list_splits(spec), spec)
        found = specs.open_source(spec, chosen, image_key=image_key, text_key=text_key, within=within)
        return PatientSource(found)
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
