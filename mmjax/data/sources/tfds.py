"""Records of a TFDS-style directory (ArrayRecord or Parquet shards), read by index and without TensorFlow."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from mmjax.data import regions
from mmjax.data.nearest import unknown_name
from mmjax.data.records import BadRecord, Record, Unreachable, check_index, middle, require_caption
from mmjax.data.sources import fields
from mmjax.data.sources.fields import IMAGE_SETTING, LICENCE_SETTING, TEXT_SETTING, Keys, Pixels, class_name
from mmjax.data.sources.tfds_folder import is_frames, open_builder, open_split


class TfdsSource:
    """A source over one split of a TFDS-style directory.

    `split` is TFDS's own syntax ("train", "train[:90%]", "a+b"). Captions are a text, a sequence of texts or a
    class label, whose name is the caption; "captions/text" reaches into a nested feature. A sequence of images is the
    frames of a video. The class name of a record is its value of the data set's class label, if it has exactly one.
    `answer_key` names a number or a class label, and the keys of `regions_config` arrays; the licence is a text, a
    number, a sequence of them, or a class label, and may be nested. A class label below 0 says nothing.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        keys: Keys | None = None,
        answer_key: str = "",
        regions_config: regions.RegionsConfig | None = None,
    ):
        self._builder = open_builder(folder)
        self._name = f"{folder} [{split}]"
        self._keys, self._answer_key, self._regions = keys or Keys(), answer_key, regions_config
        image_key, licence_key, features = self._keys.image, self._keys.licence, self._builder.info.features
        answer = {"data.answer_key": answer_key} if answer_key else {}
        named = {IMAGE_SETTING: image_key, TEXT_SETTING: self._keys.text, LICENCE_SETTING: licence_key}
        for setting, key in ({setting: key for setting, key in named.items() if key} | answer).items():
            _check_key(folder, setting, key, features, is_nested=setting in (TEXT_SETTING, LICENCE_SETTING))
        for key in () if regions_config is None else regions_config.keys:
            _check_key(folder, "data.regions: key", key, features)
        self._class_names = {
            key: feature.names
            for key, feature in features.items()
            if hasattr(feature, "int2str") and key not in (answer_key, licence_key)
        }
        self._licence_names = getattr(_feature(features, licence_key), "names", None) if licence_key else None
        self._has_frames = bool(image_key) and is_frames(features[image_key])
        self._examples = open_split(self._builder, split, str(folder), image_key, self._builder.info.splits)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        check_index(index, self)
        example = self._example(index)
        seen = self._pixels(example)
        return Record(
            seen.image,
            tuple(require_caption(text) for text in self._texts(example)),
            self._class_name(example),
            f"{self._name} record {index}",
            None if self._regions is None else regions.parse(example, self._regions),
            int(example[self._answer_key]) if self._answer_key else None,
            frames=seen.frames,
            licence=self._licence(example),
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

    def _pixels(self, example: dict[str, Any]) -> Pixels:
        if not self._has_frames:
            return Pixels(example[self._keys.image] if self._keys.image else None)
        frames = tuple(example[self._keys.image])
        return Pixels(middle(frames), frames)

    def _texts(self, example: dict[str, Any]) -> list[str]:
        if self._keys.text in self._class_names:
            return [class_name(self._class_names[self._keys.text], int(example[self._keys.text]))]
        texts = [decode_text(text) for text in _flat(_at(example, self._keys.text))]
        if not texts:
            raise BadRecord("it has no caption")
        return texts

    def _licence(self, example: dict[str, Any]) -> str:
        if not self._keys.licence:
            return ""
        value = _at(example, self._keys.licence)
        if self._licence_names is not None:
            return class_name(self._licence_names, int(value))
        return ", ".join(str(decode_text(one)).strip() for one in _flat(value))

    def _class_name(self, example: dict[str, Any]) -> str | None:
        if len(self._class_names) != 1:
            return None
        ((key, names),) = self._class_names.items()
        return class_name(names, int(example[key])) or None


def _at(values: Any, key: str) -> Any:
    """What is under a key, which may have a slash of its own, or in nested values."""
    return values[key] if key in values else fields.field(values, key)


def _flat(value: Any) -> Iterator[bytes | str]:
    """The texts of one, or of a sequence of them, or of sequences, such as those of an image's objects."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        for inner in value:
            yield from _flat(inner)
    else:
        yield value


def decode_text(text: bytes | str) -> str:
    """Returns the text of a TFDS value; raises BadRecord when its bytes are not UTF-8."""
    try:
        return text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise BadRecord("its caption is not UTF-8") from error


def _check_key(folder: Path, setting: str, key: str, features: Any, is_nested: bool = False) -> None:
    """Raises UserError where there is no such feature; one in another is "a/b"."""
    node, parts = features, key.split("/") if is_nested and key not in features else [key]
    for part in parts:
        known = _inner(node)
        if part not in known:
            raise unknown_name(f"{folder}: {setting}", key if node is features else part, known)
        node = known[part]


def _feature(features: Any, key: str) -> Any:
    """The one that `_check_key` has found."""
    if key in features:
        return features[key]
    for part in key.split("/"):
        features = _inner(features)[part]
    return features


def _inner(feature: Any) -> Mapping[str, Any]:
    """The features in one, or in what it is a sequence of."""
    inner = getattr(feature, "feature", feature)
    return dict(inner.items()) if hasattr(inner, "items") else {}
