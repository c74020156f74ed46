"""Writes a TFDS-style directory of ArrayRecord shards, without TensorFlow."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmjax.whole_files import whole

# One record a group: random access then reads exactly one record.
WRITER_OPTIONS = "group_size:1,uncompressed"


class Description(NamedTuple):
    """What a data set says of itself: its `name`, `version`, and `text` for people."""

    name: str
    version: str
    text: str


class ShardSize(NamedTuple):
    """What one shard holds."""

    num_examples: int
    num_bytes: int


def write_directory(
    folder: Path, about: Description, features: Any, splits: Mapping[str, Iterable[Mapping[str, Any]]]
) -> None:
    """Writes {split: examples} under `folder`, one shard each, with the metadata that tfds reads them by.

    `features` is a `tfds.features.FeaturesDict`. Examples are taken one after the other, and are not kept. The bytes
    written depend on the arguments alone. Shards that were in the folder are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{about.name}-*"):
        stale.unlink()
    sizes = {split: [write_shard(folder, about, split, 0, 1, examples, features)] for split, examples in splits.items()}
    write_info(folder, about, features, sizes)


def write_shard(
    folder: Path,
    about: Description,
    split: str,
    shard: int,
    num_shards: int,
    examples: Iterable[Mapping[str, Any]],
    features: Any,
) -> ShardSize:
    """Writes the examples of one shard, whole or not at all."""
    from array_record.python.array_record_module import ArrayRecordWriter

    path = Path(_template(folder, about.name, split).sharded_filepath(shard_index=shard, num_shards=num_shards))
    num_examples = num_bytes = 0
    with whole(path) as unfinished:
        writer = ArrayRecordWriter(str(unfinished), WRITER_OPTIONS)
        for example in examples:
            record = _serialize(example, features)
            writer.write(record)
            num_examples, num_bytes = num_examples + 1, num_bytes + len(record)
        writer.close()
    return ShardSize(num_examples, num_bytes)


def write_info(folder: Path, about: Description, features: Any, splits: Mapping[str, Sequence[ShardSize]]) -> None:
    """Writes what tfds reads the shards of each split by."""
    import tensorflow_datasets as tfds  # Here, because it takes most of a second to import.

    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[size.num_examples for size in sizes],
            num_bytes=sum(size.num_bytes for size in sizes),
            filename_template=_template(folder, about.name, split),
        )
        for split, sizes in splits.items()
    ]
    info = tfds.core.DatasetInfo(builder=_identity(folder, about), features=features, description=about.text)
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(folder)


def _template(folder: Path, name: str, split: str) -> Any:
    import tensorflow_datasets as tfds

    return tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record"
    )


def _identity(folder: Path, about: Description) -> Any:
    import tensorflow_datasets as tfds

    return tfds.core.DatasetIdentity(
        name=about.name,
        version=tfds.core.Version(about.version),
        data_dir=str(folder),
        module_name=__name__,
    )


def _serialize(example: Mapping[str, Any], features: Any) -> bytes:
    from tensorflow_datasets.proto import tf_example_pb2

    # A protocol buffer's map has no order of its own: asked twice, it may write other bytes.
    message = tf_example_pb2.Example.FromString(features.serialize_example(features.encode_example(dict(example))))
    return message.SerializeToString(deterministic=True)
