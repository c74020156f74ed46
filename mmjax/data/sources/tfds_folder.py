"""The folders that TFDS writes: which one a data set is in, and its splits by index, without TensorFlow."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmjax.data.nearest import unknown_name
from mmjax.errors import UserError

INFO_NAME = "dataset_info.json"
NAME = re.compile(r"[a-z0-9_]+(/[\w.+-]+)?(:\d+\.\d+\.\d+)?")
"""Of a data set of TFDS, with its config and its version."""


def open_builder(folder: Path) -> Any:
    """Returns the TFDS builder of `folder`, or of the one data set in it (folder/version, folder/name/version)."""
    import tensorflow_datasets as tfds  # Here, because it takes most of a second to import.

    try:
        return tfds.builder_from_directory(dataset_folder(folder))
    except ModuleNotFoundError as error:
        raise UserError(
            f"{folder} has features that TFDS cannot read without {error.name}: pip install {error.name}, or write "
            "videos as a Sequence of Image"
        ) from error


def folder_of(place: str) -> Path:
    """The folder that `place` is, or that TFDS prepared a data set of that name in: "coco_captions",
    "ref_coco/refcoco_unc:1.1.0".

    That is `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`.

    Raises:
        UserError: there is none.
    """
    folder = Path(place).expanduser()
    if folder.is_dir():
        return folder
    if not NAME.fullmatch(place):
        raise UserError(f"data folder {folder} does not exist: check the path in data.source")
    prepared = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    named = prepared / place.replace(":", "/")
    if not named.is_dir():
        raise UserError(
            f"{place} is no folder, and {prepared} has no data set of that name: prepare it with TFDS and "
            "file_format=array_record, or set TFDS_DATA_DIR"
        )
    return named


def dataset_folder(folder: Path) -> Path:
    """`folder` itself, or the one of the one data set in it (folder/version, folder/name/version).

    Raises:
        UserError: there is none, or there are several.
    """
    if (folder / INFO_NAME).is_file():
        return folder
    found = sorted(path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{INFO_NAME}"))
    if not found:
        raise UserError(f"{folder} holds no {INFO_NAME}: give the folder that TFDS wrote")
    if len(found) > 1:
        raise UserError(f"{folder} holds several data sets: give one of {', '.join(map(str, found))}")
    return found[0]


def open_split(builder: Any, split: str, where: str, image_key: str, known_splits: Iterable[str]) -> Any:
    """Returns the split's examples by index, images left encoded.

    Raises UserError, naming the data set as `where`, for an unknown or empty split or one that has no index.
    """
    import tensorflow_datasets as tfds

    feature = builder.info.features[image_key] if image_key else None
    is_image = isinstance(feature, tfds.features.Image) or is_frames(feature)
    decoders = {image_key: _as_stored()} if is_image else None
    try:
        examples = builder.as_data_source(split, decoders=decoders)
    except NotImplementedError as error:
        raise UserError(
            f"{where} is not stored for access by index: prepare it again with TFDS and file_format=array_record"
        ) from error
    except (ValueError, AssertionError) as error:
        raise unknown_name(f"{where}: split", split, known_splits) from error
    if len(examples) == 0:
        raise UserError(f"{where}: split {split!r} is empty: choose another one of {', '.join(known_splits)}")
    return examples


def is_frames(feature: Any) -> bool:
    """Whether a feature is a sequence of images."""
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.Sequence) and isinstance(feature.feature, tfds.features.Image)


def _as_stored() -> Any:
    from mmjax.data.sources.as_stored import AsStored

    return AsStored()
