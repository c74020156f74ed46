"""Regions that a detector found, from a request to the inputs of a model."""

from collections.abc import Sequence

import numpy as np
import torch

from mmjax.serving.images import from_base64
from mmjax.serving.limits import Limits, Refused
from mmjax.serving.model import Rows

FLOAT = np.dtype("<f4")
BOX_SIDES = 4


def region_rows(
    features: str, boxes: Sequence[Sequence[float]] | None, feature_dim: int, takes_boxes: bool, limits: Limits
) -> Rows:
    """Features (1, r, feature_dim), boxes (1, r, 4) and a mask (1, r) of one image with r regions.

    features: base64 of float32 numbers, little-endian, region by region; as JSON, 36 regions of 2,048 numbers would be
        more values than a body may have.
    boxes: left, top, right, bottom of each region as fractions of the image; only None where the model takes none.

    Raises:
        Refused: (422) they are none of these, or too many.
    """
    numbers = _numbers(from_base64(features, "features"), feature_dim, limits)
    if boxes is None and takes_boxes:
        raise _refused("the model looks at where regions are: give boxes")
    sides = np.zeros((len(numbers), BOX_SIDES), np.float32) if boxes is None else _sides(boxes, len(numbers))
    return {
        "region_features": torch.from_numpy(numbers)[None],
        "region_boxes": torch.from_numpy(sides)[None],
        "region_mask": torch.ones(1, len(numbers), dtype=torch.bool),
    }


def _numbers(data: bytes, feature_dim: int, limits: Limits) -> np.ndarray:
    count, rest = divmod(len(data), feature_dim * FLOAT.itemsize)
    if rest or not 1 <= count <= limits.regions:
        size = f"{feature_dim} float32 numbers each"
        raise _refused(f"features are {len(data)} bytes, not those of 1 to {limits.regions} regions of {size}")
    numbers = np.frombuffer(data, FLOAT).reshape(count, feature_dim).astype(np.float32)
    if not np.isfinite(numbers).all():
        raise _refused("features are not all finite")
    return numbers


def _sides(boxes: Sequence[Sequence[float]], count: int) -> np.ndarray:
    if len(boxes) != count:
        raise _refused(f"there are {len(boxes)} boxes for {count} regions: give one each")
    sides = np.asarray(boxes, np.float32)
    if (sides[:, :2] > sides[:, 2:]).any():
        raise _refused("a box has its left or top behind its right or bottom: give left, top, right, bottom")
    return sides


def _refused(detail: str) -> Refused:
    return Refused(422, "regions", detail)
