"""Weights and inputs that are functions of names and seeds alone, so that golden outputs need no stored weights.

The scripts of this folder fill the reference models from here, and the tests fill ours. Only the raw stream of numpy's
PCG64 is used, which stays the same over its versions, and neither logarithms nor cosines: every machine gets the same
weights to the bit. `weights_crc32` in the tables of facts proves it.
"""

import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Table = Sequence[tuple[str, Sequence[int]]]

NUM_SAMPLES = 1000
"""How many numbers of one large output are stored."""


class Batch(NamedTuple):
    """Texts, images as detected regions, and the labels of every pretraining task.

    B texts of at most T tokens, B images of at most R regions, features of D numbers, C classes of objects.
    """

    text_ids: np.ndarray
    """[B, T] int32: masked tokens, as they enter a model; 0 at padding and nowhere else."""
    text_mask: np.ndarray
    """[B, T] bool: false at padding, which stands behind the text."""
    text_labels: np.ndarray
    """[B, T] int32: what stood at a masked position, else -1; at least one in each row, and never the first."""
    features: np.ndarray
    """[B, R, D] float32: before any are masked; 0 at padding."""
    boxes: np.ndarray
    """[B, R, 4] float32: left, top, right, bottom as fractions of width and height of the image; 0 at padding."""
    region_mask: np.ndarray
    """[B, R] bool: false at padding, which stands behind the regions."""
    masked_regions: np.ndarray
    """[B, R] bool: regions to predict, at least one in each row."""
    region_targets: np.ndarray
    """[B, R, C] float32: probabilities of classes; 0 at padding."""
    matched: np.ndarray
    """[B] int32: 1 where the text belongs to the image, and 0; both occur."""


def array(name: str, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """float32 weights of this name, with which activations stay of order 1 and tokens stay unlike each other.

    Matrices and tables are uniform of standard deviation gain/sqrt(last dimension), the number of a layer's inputs in
    the layout of PyTorch; scales of norms lie within 1 ± 0.1, and biases within ± 0.1.
    """
    unit = uniform(name, shape, seed)
    if len(shape) > 1:
        return unit * np.float32(_gain(name) * math.sqrt(3 / shape[-1]))
    return unit * np.float32(0.1) + np.float32(name.endswith("weight"))


def _gain(name: str) -> float:
    """2 for queries and keys, 1/2 for what is added to a residual stream, else 1.

    With 1 throughout, attention is nearly uniform, and after twelve layers all tokens of an example are almost the
    same: 97% of the mean square of UNITER's outputs were common to all tokens, and with these gains 75% are.
    """
    if re.search(r"\.(query|key)\d?\.", name):
        return 2.0
    return 0.5 if re.search(r"[oO]utput\.dense\d?\.", name) else 1.0


def uniform(name: str, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """float32 in [-1, 1), multiples of 2^-23, from the first 24 bits of each word of the stream of name and seed."""
    words = np.random.PCG64([zlib.crc32(name.encode()), seed]).random_raw(math.prod(shape))
    unit = (np.asarray(words) >> np.uint64(40)).astype(np.float32)
    return (unit * np.float32(2**-23) - np.float32(1)).reshape(shape)


def weights(table: Table, tied: Mapping[str, str], seed: int = 0) -> dict[str, np.ndarray]:
    """Every name of a state dict with its weights; a tied name has those of the name that it shares storage with."""
    own = {name: array(name, shape, seed) for name, shape in table if name not in tied}
    return own | {name: own[other] for name, other in tied.items()}


def crc32(arrays: Iterable[np.ndarray]) -> int:
    """The checksum of the bytes of arrays, in little-endian order, one after the other."""
    checksum = 0
    for each in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(each, each.dtype.newbyteorder("<")), checksum)
    return checksum


def inputs(
    *,
    batch_size: int,
    text_len: int,
    num_regions: int,
    vocab_size: int,
    feature_dim: int,
    num_classes: int,
    padded: bool,
    seed: int = 0,
) -> Batch:
    """A batch of examples. Padded, the first text and the last image are as long as they can be, and others shorter."""
    drop = np.arange(batch_size) if padded else np.zeros(batch_size, int)
    text_mask = np.arange(text_len) < (text_len - 2 * drop)[:, None]
    region_mask = np.arange(num_regions) < (num_regions - drop[::-1])[:, None]
    shape = (batch_size, num_regions)
    text_ids = _integers("text_ids", text_mask.shape, seed, 1, vocab_size) * text_mask
    original = _integers("text_labels", text_mask.shape, seed, 1, vocab_size)
    chosen = _chosen("text_labels.chosen", text_mask, seed, first=1)
    masked_regions = _chosen("masked_regions", region_mask, seed, first=0)
    real = region_mask[..., None]
    return Batch(
        text_ids.astype(np.int32),
        text_mask,
        np.where(chosen, original, -1).astype(np.int32),
        np.float32(math.sqrt(3)) * uniform("features", (*shape, feature_dim), seed) * real,
        _boxes(shape, seed) * real,
        region_mask,
        masked_regions,
        _distributions((*shape, num_classes), seed) * real,
        (np.arange(batch_size) % 2 == 0).astype(np.int32),
    )


def sample(outputs: np.ndarray, limit: int = NUM_SAMPLES) -> np.ndarray:
    """At most `limit` numbers of an array in row-major order, every `stride(size, limit)`-th from the first on."""
    flat = np.asarray(outputs).reshape(-1)
    return flat[:: stride(flat.size, limit)]


def stride(size: int, limit: int = NUM_SAMPLES) -> int:
    """The least step that leaves at most `limit` numbers and shares no factor with the size: it visits all columns."""
    step = max(1, math.ceil(size / limit))
    while math.gcd(step, size) > 1:
        step += 1
    return step


def five_numbers(boxes: np.ndarray) -> np.ndarray:
    """[..., 5]: ViLBERT's location of a box, its four sides and the fraction of the image that it covers."""
    left, top, right, bottom = np.moveaxis(boxes, -1, 0)
    return np.stack([left, top, right, bottom, (right - left) * (bottom - top)], axis=-1)


def seven_numbers(boxes: np.ndarray) -> np.ndarray:
    """[..., 7]: UNITER's location of a box, its four sides, width, height and their product."""
    left, top, right, bottom = np.moveaxis(boxes, -1, 0)
    width, height = right - left, bottom - top
    return np.stack([left, top, right, bottom, width, height, width * height], axis=-1)


def with_whole_image(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, locations and mask of the whole image and its R regions, as ViLBERT takes them: masked features are 0.

    The features of the whole image are the mean of those of its regions, masked ones among them as zeros.
    """
    features = batch.features * ~batch.masked_regions[..., None]
    mean = features.sum(1, keepdims=True) / batch.region_mask.sum(1)[:, None, None]
    whole = np.broadcast_to(np.float32([0, 0, 1, 1, 1]), (len(features), 1, 5))
    locations = np.concatenate([whole, five_numbers(batch.boxes)], axis=1)
    mask = np.concatenate([np.ones_like(batch.region_mask[:, :1]), batch.region_mask], axis=1)
    return np.concatenate([mean, features], axis=1).astype(np.float32), locations.astype(np.float32), mask


def _integers(name: str, shape: Sequence[int], seed: int, low: int, high: int) -> np.ndarray:
    """Integers from `low` to `high - 1`."""
    unit = (uniform(name, shape, seed).astype(np.float64) + 1) / 2
    return low + np.floor(unit * (high - low)).astype(np.int64)


def _chosen(name: str, mask: np.ndarray, seed: int, first: int) -> np.ndarray:
    """A third of the true positions from `first` on, and in each row at least `first` itself."""
    chosen = (uniform(name, mask.shape, seed) < -1 / 3) & mask
    chosen[:, :first] = False
    chosen[:, first] |= ~chosen.any(axis=1)
    return chosen


def _boxes(shape: Sequence[int], seed: int) -> np.ndarray:
    """float32 boxes with a side of at least 0.1."""
    unit = (uniform("boxes", (*shape, 4), seed) + 1) / 2
    corner, size = unit[..., :2] * np.float32(0.5), np.float32(0.1) + unit[..., 2:] * np.float32(0.4)
    return np.concatenate([corner, corner + size], axis=-1)


def _distributions(shape: Sequence[int], seed: int) -> np.ndarray:
    """float32 that are positive and sum to 1 along the last axis, peaked as a detector's are."""
    peaked = (uniform("region_targets", shape, seed) + 1) ** 8
    return peaked / peaked.sum(axis=-1, keepdims=True)
