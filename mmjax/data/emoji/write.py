"""Writes the emoji data set: a TFDS-style directory of ArrayRecord shards, and one caption file per language."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.data.emoji.concepts import Concept

NAME = "emoji"
VERSION = "1.0.0"
DESCRIPTION = "Emoji concepts drawn by three vendors (Noto, Twemoji, Fluent 3D), captioned in many languages."
# One record a group: random access then reads exactly one record. WebP does not compress further.
WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclass(frozen=True)
class Drawing:
    """One record: a concept as one vendor draws it, `image` being WebP bytes."""

    concept: Concept
    vendor: str
    image: bytes


def write_dataset(folder: Path, splits: Mapping[str, Sequence[Drawing]], image_size: int) -> None:
    """Writes {split: drawings} under `folder`, one shard each, with the metadata that tfds reads them by.

    The bytes written depend on the arguments alone. Files that were in the folder are replaced.
    """
    import tensorflow_datasets as tfds  # Here, because it takes most of a second to import.

    features = _features(image_size)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{NAME}-*"):
        stale.unlink()
    infos = [_write_split(folder, split, drawings, features) for split, drawings in splits.items()]
    builder_info = tfds.core.DatasetInfo(builder=_identity(folder), features=features, description=DESCRIPTION)
    builder_info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    builder_info.set_splits(tfds.core.splits.SplitDict(infos))
    builder_info.write_to_directory(folder)


def _features(image_size: int) -> Any:
    import numpy as np
    import tensorflow_datasets as tfds

    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(image_size, image_size, 3), doc="the drawing on white"),
            "label": text(doc="English name"),
            "tags": tfds.features.Sequence(text(), doc="English key words"),
            "hexcode": text(doc="code points without variation selectors"),
            "concept_id": tfds.features.Scalar(dtype=np.int32, doc="equal for one concept drawn by several vendors"),
            "family": text(doc="near-duplicate concepts, never split between parts"),
            "vendor": text(),
            "group": text(),
            "subgroup": text(),
        }
    )


def _identity(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    return tfds.core.DatasetIdentity(
        name=NAME,
        version=tfds.core.Version(VERSION),
        data_dir=str(folder),
        module_name=__name__,
    )


def _write_split(folder: Path, split: str, drawings: Iterable[Drawing], features: Any) -> Any:
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=NAME, split=split, filetype_suffix="array_record"
    )
    records = [_serialize(_example(drawing), features) for drawing in drawings]
    writer = ArrayRecordWriter(str(template.sharded_filepath(shard_index=0, num_shards=1)), WRITER_OPTIONS)
    for record in records:
        writer.write(record)
    writer.close()
    return tfds.core.SplitInfo(
        name=split, shard_lengths=[len(records)], num_bytes=sum(map(len, records)), filename_template=template
    )


def _serialize(example: dict[str, Any], features: Any) -> bytes:
    from tensorflow_datasets.proto import tf_example_pb2

    # A protocol buffer's map has no order of its own: asked twice, it may write other bytes.
    message = tf_example_pb2.Example.FromString(features.serialize_example(features.encode_example(example)))
    return message.SerializeToString(deterministic=True)


def _example(drawing: Drawing) -> dict[str, Any]:
    concept = drawing.concept
    return {
        "image": drawing.image,
        "label": concept.label,
        "tags": list(concept.tags),
        "hexcode": concept.hexcode,
        "concept_id": concept.concept_id,
        "family": concept.family,
        "vendor": drawing.vendor,
        "group": concept.group,
        "subgroup": concept.subgroup,
    }


def write_captions(path: Path, captions: Mapping[str, tuple[str, Sequence[str]]], concepts: Iterable[Concept]) -> None:
    """Writes one language's {hexcode: [label, tags]} as JSON, a concept a line, in the concepts' order."""
    lines = [f'"{one.hexcode}": {json.dumps(captions[one.hexcode], ensure_ascii=False)}' for one in concepts]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
