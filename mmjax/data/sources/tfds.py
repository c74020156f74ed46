"""Records of a TFDS-style directory (ArrayRecord or Parquet shards), read by index and without TensorFlow."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from mmjax.data import regions
from mmjax.data.nearest import unknown_name
from mmjax.data.records import BadRecord, Record, Unreachable, check_index, require_caption
from mmjax.errors import UserError

INFO_NAME = "dataset_info.json"


class TfdsSource:
    """A source over one split of a TFDS-style directory.

    `split` is TFDS's own syntax ("train", "train[:90%]", "a+b"). `text_key` names a text, a sequence of texts (all of
    them captions) or a class label (its name is the caption); "captions/text" reaches into a nested feature. The class
    name of a record is its value of the data set's class label, if it has exactly one. `answer_key` names a number or
    a class label, and the keys of `regions_config` arrays. Where `image_key` is "" no image is read.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        image_key: str = "image",
        text_key: str = "text",
        answer_key: str = "",
        regions_config: regions.RegionsConfig | None = None,
    ):
        self._builder = open_builder(folder)
        self._name = f"{folder} [{split}]"
        self._image_key, self._text_key, self._answer_key = image_key, text_key, answer_key
        self._regions = regions_config
        features = self._builder.info.features
        if image_key:
            _check_key(folder, "data.image_key", image_key, features)
        _check_key(folder, "data.text_key", text_key.split("/")[0], features)
        for key in () if regions_config is None else regions_config.keys:
            _check_key(folder, "data.regions: key", key, features)
        if answer_key:
            _check_key(folder, "data.answer_key", answer_key, features)
        self._class_names = {
            key: feature.names for key, feature in features.items() if hasattr(feature, "int2str") and key != answer_key
        }
        self._examples = open_split(self._builder, split, str(folder), image_key, self._builder.info.splits)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        check_index(index, self)
        example = self._example(index)
        return Record(
            example[self._image_key] if self._image_key else None,
            tuple(require_caption(text) for text in self._texts(example)),
            self._class_name(example),
            f"{self._name} record {index}",
            None if self._regions is None else regions.parse(example, self._regions),
            int(example[self._answer_key]) if self._answer_key else None,
        )

    def _example(self, index: int) -> dict[str, Any]:
        try:
            return self._examples[index]
        except (DecodeError, ValueError, TypeError) as error:
            if "NoneType" in str(error):
                raise BadRecord("its shard does not hold it: the file is cut off or damaged") from error
            raise BadRecord(f"it cannot be parsed: {error}") from error
        except (RuntimeError, OSError) as error:
            raise Unreachable(f"its shard cannot be read: {error}") from error

    def _texts(self, example: dict[str, Any]) -> list[str]:
        if self._text_key in self._class_names:
            return [self._class_names[self._text_key][example[self._text_key]]]
        value: Any = example
        for key in self._text_key.split("/"):
            value = value[key]
        texts = [value] if isinstance(value, bytes | str) else list(value)
        if not texts:
            raise BadRecord("it has no caption")
        return [decode_text(text) for text in texts]

    def _class_name(self, example: dict[str, Any]) -> str | None:
        if len(self._class_names) != 1:
            return None
        ((key, names),) = self._class_names.items()
        return names[example[key]]


def decode_text(text: bytes | str) -> str:
    """Returns the text of a TFDS value; raises BadRecord when its bytes are not UTF-8."""
    try:
        return text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise BadRecord("its caption is not UTF-8") from error


def open_builder(folder: Path) -> Any:
    """Returns the TFDS builder of `folder`, or of the one data set in it (folder/version, folder/name/version)."""
    import tensorflow_datasets as tfds  # Here, because it takes most of a second to import.

    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist: check the path in data.source")
    return tfds.builder_from_directory(_dataset_folder(folder))


def _dataset_folder(folder: Path) -> Path:
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

    is_image = bool(image_key) and isinstance(builder.info.features[image_key], tfds.features.Image)
    decoders = {image_key: tfds.decode.SkipDecoding()} if is_image else None
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


def _check_key(folder: Path, setting: str, key: str, features: Iterable[str]) -> None:
    if key not in features:
        raise unknown_name(f"{folder}: {setting}", key, features)
