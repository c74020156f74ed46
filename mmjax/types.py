"""Array aliases, the dimension glossary, and the mergeable mean.

Dimensions have the same letter in einsum strings, in parameter declarations and in comments:

    b  examples in the batch     d  model width             v  vocabulary
    t  query positions           f  feed-forward width      l  layers
    s  key positions             n  query heads             a  microbatches
    p  image patches             k  key-value heads         i  image row of a similarity matrix
    e  shared embedding width    h  head dimension          j  text column of a similarity matrix

Parameters have heads side by side along `n`. A letter outside the glossary is a dimension of one layer alone, never
sharded: `c` channels of pixels or patches, `y` and `x` image rows and columns, `o` a group of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Key = jax.Array
Params = dict[str, Any]
"""Parameters as a plain nested dict; its paths read as English: `image/blocks/attention/query/kernel`."""
Batch = Mapping[str, Array]
"""`image` uint8 (b, y, x, 3); `text_ids` int32 (b, t); `text_mask` bool (b, t), True means use it; `ids` int32 (b,),
equal ids are positives; `weights` float32 (b,), 0 means that the row counts nothing. Where `data.num_words` asks for
them, `words` int32 (b, w), hashes of the words of all captions of the record, each once, 0 where there are no more;
and where `data.word_starts` does, `word_starts` bool (b, t), True for tokens that begin a word. With `data.regions`, in
place of `image`, `region_features` float (b, p, c), `region_boxes` float (b, p, 4), `region_mask` bool (b, p) and
`region_NAME` of each target. With pairs of captions, `token_types` int32 (b, t), 1 for the second, and `follows` int32
(b,), whether it belongs with the first; with `data.answer_key`, `answers` int32 (b,)."""
BatchSpec = Mapping[str, jax.ShapeDtypeStruct]
"""Shapes, types and shardings of a `Batch`."""
HostBatch = dict[str, np.ndarray]
"""The same on the host, before it is placed on devices."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mean:
    """A mean that merges: sum and count, so that ragged last batches and many hosts give the right value."""

    sum: Array
    count: Array

    @classmethod
    def of(cls, values: Array, weights: Array) -> "Mean":
        """The weighted mean of `values` (b,) under `weights` (b,), kept apart as sum and count."""
        return cls(jnp.sum(values * weights), jnp.sum(weights))

    def merge(self, other: "Mean") -> "Mean":
        return Mean(self.sum + other.sum, self.count + other.count)

    @property
    def value(self) -> Array:
        """sum / count, and 0 where nothing was counted."""
        return jnp.where(self.count == 0, 0.0, self.sum / jnp.where(self.count == 0, 1, self.count))


class Loss(NamedTuple):
    """What an objective returns: the total that is differentiated, and the terms that are only logged."""

    total: Mean
    terms: dict[str, Mean]
