"""Writes a TFDS-style directory of ArrayRecord shards, without TensorFlow."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# One record a group: random access then reads exactly one record.
WRITER_OPTIONS = "group_size:1,uncompressed"


class Description(NamedTuple):
    """What a data set says of itself: its `name`, `version`, and `text` for people."""

    name: str
    version: str
    text: str


def write_directory(
    folder: Path, about: Description, features: Any, splits: Mapping[str, Iterable[Mapping[str, Any]]]
) -> None:
    """Writes {split: examples} under `folder`, one shard each, with the metadata that tfds reads them by.

    `features` is a `tfds.features.FeaturesDict`. Examples are taken one after the other, and are not kept. The bytes
    written depend on the arguments alone. Shards that were in the folder are replaced.
    """
    import tensorflow_datasets as tfds  # Here, because it takes most of a second to import.

    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{about.name}-*"):
        stale.unlink()
    infos = [_write_split(folder, about.name, split, examples, features) for split, examples in splits.items()]
    info = tfds.core.DatasetInfo(builder=_identity(folder, about), features=features, description=about.text)
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(folder)


def _identity(folder: Path, about: Description) -> Any:
    import tensorflow_datasets as tfds

    return tfds.core.DatasetIdentity(
        name=about.name,
        version=tfds.core.Version(about.version),
        data_dir=str(folder),
        module_name=__name__,
    )


def _write_split(folder: Path, name: str, split: str, examples: Iterable[Mapping[str, Any]], features: Any) -> Any:
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record"
    )
    writer = ArrayRecordWriter(str(template.sharded_filepath(shard_index=0, num_shards=1)), WRITER_OPTIONS)
    num_examples = num_bytes = 0
    for example in examples:
        record = _serialize(example, features)
        writer.write(record)
        num_examples, num_bytes = num_examples + 1, num_bytes + len(record)
    writer.close()
    return tfds.core.SplitInfo(
        name=split, shard_lengths=[num_examples], num_bytes=num_bytes, filename_template=template
    )


def _serialize(example: Mapping[str, Any], features: Any) -> bytes:
    from tensorflow_datasets.proto import tf_example_pb2

    # A protocol buffer's map has no order of its own: asked twice, it may write other bytes.
    message = tf_example_pb2.Example.FromString(features.serialize_example(features.encode_example(dict(example))))
    return message.SerializeToString(deterministic=True)
