"""A data set of regions, as TFDS writes it: features, boxes in pixels, what a detector said, captions and answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data.regions import RegionsConfig, RegionTargetConfig
from mmjax.data.tfds_writer import Description, write_directory

FEATURE_DIM, NUM_CLASSES = 6, 4
SIZE = (40.0, 20.0)
"""Width and height of every image."""

CONFIG = RegionsConfig(
    num_regions=3,
    feature_dim=FEATURE_DIM,
    box_unit="pixel",
    targets=(
        RegionTargetConfig("classes", "labels"),
        RegionTargetConfig("classes_confidence", "scores", "score"),
        RegionTargetConfig("probabilities", "shares", "distribution", NUM_CLASSES),
    ),
)


def example(number: int) -> dict[str, Any]:
    """The n-th has 1 + n mod 5 regions, and the answer n mod 3."""
    rng = np.random.default_rng(number)
    num_regions = 1 + number % 5
    corners = np.sort(rng.random((num_regions, 2, 2), np.float32), axis=1).reshape(num_regions, 4)
    shares = rng.random((num_regions, NUM_CLASSES), np.float32)
    return {
        "features": rng.standard_normal((num_regions, FEATURE_DIM)).astype(np.float16),
        "boxes": corners * np.array([*SIZE, *SIZE], np.float32),
        "image_width": SIZE[0],
        "image_height": SIZE[1],
        "labels": rng.integers(0, NUM_CLASSES, num_regions),
        "scores": rng.random(num_regions, np.float32),
        "shares": shares / shares.sum(axis=1, keepdims=True),
        "text": f"what is thing {number}",
        "answer": number % 3,
    }


def write(folder: Path, num_train: int = 12, num_test: int = 5, **changes: Any) -> Path:
    """Writes the data set under `folder`; `changes` replace fields of the third example."""

    def examples(numbers: range) -> Iterator[dict[str, Any]]:
        for number in numbers:
            yield example(number) | (changes if number == 2 else {})

    about = Description("regions", "1.0.0", "Random regions.")
    splits = {"train": examples(range(num_train)), "test": examples(range(num_train, num_train + num_test))}
    write_directory(folder / "1.0.0", about, _features(), splits)
    return folder


def _features() -> Any:
    import tensorflow_datasets as tfds

    def array(*shape: int | None, dtype: type = np.float32) -> Any:
        return tfds.features.Tensor(shape=shape, dtype=dtype)

    return tfds.features.FeaturesDict(
        {
            "features": array(None, FEATURE_DIM, dtype=np.float16),
            "boxes": array(None, 4),
            "image_width": tfds.features.Scalar(np.float32),
            "image_height": tfds.features.Scalar(np.float32),
            "labels": array(None, dtype=np.int64),
            "scores": array(None),
            "shares": array(None, NUM_CLASSES),
            "text": tfds.features.Text(),
            "answer": tfds.features.ClassLabel(num_classes=3),
        }
    )
