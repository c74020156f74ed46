"""Regions that a detector found in an image: how they are stored, and the rows of a batch that they become."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmjax.data.records import BadRecord, Regions
from mmjax.errors import UserError

Kind = Literal["label", "score", "distribution"]
LARGEST_FRACTION = 1.5
"""Detectors let boxes stand out of the image a little; numbers beyond this are pixels."""


@dataclass(frozen=True)
class RegionTargetConfig:
    """Something that the detector said of each region, which an objective predicts or weighs by.

    Attributes:
      name: the batch has it as `region_NAME`: "classes", "probabilities", "objects", "objects_confidence", ...
      key: feature of the data set.
      kind: a "label" is an integer, a "score" a number, a "distribution" has `num_classes` of them.
    """

    name: str
    key: str
    kind: Kind = "label"
    num_classes: int = 0

    def __post_init__(self) -> None:
        if (self.kind == "distribution") != (self.num_classes > 0):
            raise UserError(
                f"data.regions: target {self.name!r} of kind {self.kind!r} has num_classes = {self.num_classes}: "
                "distributions have at least 1, and others 0"
            )


@dataclass(frozen=True)
class RegionsConfig:
    """What stands in place of an image's pixels: features of regions, with their boxes.

    Attributes:
      num_regions: regions of an example. Of more, those that are stored first are kept: detectors put the surest first.
        Fewer are filled up, and masked.
      feature_dim: of a region's features.
      dtype: in which features travel to the device; float16, as they are mostly stored, takes half of the bytes.
      features_key, boxes_key: features of the data set, float (p, feature_dim) and (p, 4): left, top, right, bottom.
      box_unit: what boxes are given in; pixels are divided by the image's size.
      height_key, width_key: features of the data set with that size in pixels.
      targets: what an objective wants beside them.
    """

    num_regions: int = 36
    feature_dim: int = 2048
    dtype: Literal["float32", "float16"] = "float32"
    features_key: str = "features"
    boxes_key: str = "boxes"
    box_unit: Literal["fraction", "pixel"] = "fraction"
    height_key: str = "image_height"
    width_key: str = "image_width"
    targets: tuple[RegionTargetConfig, ...] = ()

    def __post_init__(self) -> None:
        if self.num_regions < 1 or self.feature_dim < 1:
            raise UserError(f"{self}: num_regions and feature_dim are at least 1")

    @property
    def keys(self) -> tuple[str, ...]:
        """Features that the data set must have."""
        sizes = (self.height_key, self.width_key) if self.box_unit == "pixel" else ()
        return (self.features_key, self.boxes_key, *sizes, *(target.key for target in self.targets))


def parse(example: Mapping[str, Any], config: RegionsConfig) -> Regions:
    """The regions of an example of a data set.

    Raises:
        BadRecord: it has none, or their numbers have other shapes than the config says, are no numbers or no fractions.
    """
    features = np.asarray(example[config.features_key])
    boxes = np.asarray(example[config.boxes_key], np.float32)
    _check("features", features, (len(features), config.feature_dim))
    _check("boxes", boxes, (len(features), 4))
    if not len(features):
        raise BadRecord("it has no regions")
    targets = {target.name: _target(example, target, len(features)) for target in config.targets}
    return Regions(features.astype(config.dtype), _fractions(boxes, example, config), targets)


def _target(example: Mapping[str, Any], config: RegionTargetConfig, num_regions: int) -> np.ndarray:
    values = np.asarray(example[config.key]).astype(np.int32 if config.kind == "label" else np.float32)
    _check(config.name, values, (num_regions, *_rest(config)))
    return values


def _check(name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise BadRecord(f"its regions' {name} have shape {values.shape}, not {shape}: compare data.regions")
    if not np.all(np.isfinite(values)):
        raise BadRecord(f"its regions' {name} are not all finite")


def _fractions(boxes: np.ndarray, example: Mapping[str, Any], config: RegionsConfig) -> np.ndarray:
    if config.box_unit == "pixel":
        width, height = float(example[config.width_key]), float(example[config.height_key])
        if width <= 0 or height <= 0:
            raise BadRecord(f"its image is {width:g} x {height:g} pixels large")
        boxes = boxes / np.array([width, height, width, height], np.float32)
    if np.abs(boxes).max() > LARGEST_FRACTION:
        raise BadRecord(
            f"its boxes reach to {np.abs(boxes).max():g} times the image's size: set data.regions.box_unit to 'pixel' "
            "if that is what they are given in"
        )
    return boxes


Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]
"""Of one row of a batch, by field."""


def input_shapes(config: RegionsConfig) -> Shapes:
    """The fields of a row that a model sees."""
    num_regions = config.num_regions
    return {
        "region_features": ((num_regions, config.feature_dim), np.dtype(config.dtype)),
        "region_boxes": ((num_regions, 4), np.dtype(np.float32)),
        "region_mask": ((num_regions,), np.dtype(np.bool_)),
    }


def target_shapes(config: RegionsConfig) -> Shapes:
    """The fields of a row that an objective wants beside them."""
    return {
        f"region_{target.name}": (
            (config.num_regions, *_rest(target)),
            np.dtype(np.int32 if target.kind == "label" else np.float32),
        )
        for target in config.targets
    }


def _rest(config: RegionTargetConfig) -> tuple[int, ...]:
    return (config.num_classes,) if config.kind == "distribution" else ()


def write(regions: Regions, into: Mapping[str, np.ndarray]) -> None:
    """Writes the fields of a row, each cut or filled up with zeros to the number of regions that there is room for."""
    found = {
        "region_features": regions.features,
        "region_boxes": regions.boxes,
        "region_mask": np.ones(len(regions.features), np.bool_),
        **{f"region_{name}": values for name, values in regions.targets.items()},
    }
    for name, array in into.items():
        kept = found[name][: len(array)]
        array[: len(kept)] = kept
        array[len(kept) :] = 0


def num_bytes(regions: Regions) -> int:
    """What they take in memory."""
    return sum(array.nbytes for array in (regions.features, regions.boxes, *regions.targets.values()))
