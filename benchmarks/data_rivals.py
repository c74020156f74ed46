"""The other sides of `benchmarks/data.py`, which starts it with a Python that has their libraries: no mmjax here."""

import argparse
import os
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.data import AREA, BATCH, NUM_THREADS, SIDE, TEXT_LEN, rate

TOKENIZER = Path(__file__).parents[1] / "mmjax" / "data" / "emoji" / "tokenizer" / "tokenizer.json"


def tokenizer() -> Any:
    import tokenizers

    found = tokenizers.Tokenizer.from_file(str(TOKENIZER))
    found.enable_truncation(TEXT_LEN)
    found.enable_padding(length=TEXT_LEN)
    return found


def webdataset_batches(pattern: str) -> Iterator[int]:
    import torch
    import webdataset
    from torchvision import transforms

    encoder = tokenizer()
    to_pixels = transforms.Compose([transforms.RandomResizedCrop(SIDE, scale=AREA), transforms.ToTensor()])

    def to_ids(text: str) -> torch.Tensor:
        return torch.tensor(encoder.encode(text).ids)

    dataset = (
        webdataset.WebDataset(pattern, shardshuffle=100, resampled=True)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "txt")
        .map_tuple(to_pixels, to_ids)
        .batched(BATCH)
    )
    for pixels, _ in torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=NUM_THREADS, prefetch_factor=2):
        yield len(pixels)


def tf_batches(pattern: str, way: str) -> Iterator[int]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    # Its own threads are as many as the others have.
    tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(NUM_THREADS)
    encoder = tokenizer()

    def to_ids(texts: Any) -> Any:
        return np.array([encoding.ids for encoding in encoder.encode_batch([text.decode() for text in texts])])

    def example(serialized: Any) -> tuple[Any, Any]:
        parsed = tf.io.parse_single_example(
            serialized, {"jpg": tf.io.FixedLenFeature([], tf.string), "txt": tf.io.FixedLenFeature([], tf.string)}
        )
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(parsed["jpg"]),
            tf.zeros([1, 0, 4]),
            area_range=AREA,
            aspect_ratio_range=(3 / 4, 4 / 3),
            use_image_if_no_bounding_boxes=True,
        )
        if way == "crop":
            window = tf.stack([begin[0], begin[1], size[0], size[1]])
            pixels = tf.image.decode_and_crop_jpeg(parsed["jpg"], window, channels=3)
        else:
            pixels = tf.slice(tf.image.decode_jpeg(parsed["jpg"], channels=3), begin, size)
        return tf.cast(tf.clip_by_value(tf.image.resize(pixels, (SIDE, SIDE)), 0, 255), tf.uint8), parsed["txt"]

    dataset = (
        tf.data.TFRecordDataset(write_records(pattern))
        .repeat()
        .shuffle(1000)
        .map(example, num_parallel_calls=NUM_THREADS)
        .batch(BATCH)
        .map(lambda pixels, texts: (pixels, tf.numpy_function(to_ids, [texts], tf.int64)))
        .prefetch(2)
    )
    for pixels, _ in dataset:
        yield len(pixels)


def write_records(pattern: str) -> str:
    """The photos of the tars as one file of TFRecords, written where it is not there."""
    import tensorflow as tf

    folder = Path(pattern).parent
    path = folder / "photos.tfrecord"
    last = int(re.findall(r"\d+", pattern)[-1])
    if not path.exists():
        with tf.io.TFRecordWriter(str(path)) as writer:
            for number in range(last + 1):
                with tarfile.open(folder / f"{number:05d}.tar") as tar:
                    members = tar.getmembers()
                    for image, text in zip(members[::2], members[1::2], strict=True):
                        parts = {"jpg": _bytes(tar, image), "txt": _bytes(tar, text)}
                        lists = {name: tf.train.BytesList(value=[part]) for name, part in parts.items()}
                        features = {name: tf.train.Feature(bytes_list=values) for name, values in lists.items()}
                        example = tf.train.Example(features=tf.train.Features(feature=features))
                        writer.write(example.SerializeToString())
    return str(path)


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = tar.extractfile(member)
    assert opened is not None, f"{member.name} is no file"
    return opened.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", required=True)
    parser.add_argument("--pattern", required=True)
    parser.add_argument("--secs", type=float, required=True)
    options = parser.parse_args()
    name, _, way = options.side.partition(", ")
    batches = webdataset_batches(options.pattern) if name == "webdataset" else tf_batches(options.pattern, way)
    print(rate(batches, options.secs), flush=True)
    # Workers that were not asked to end are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
