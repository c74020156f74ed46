"""A vocabulary in parts: rows of a batch and words of a table, as the devices of a mesh have them, and their logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from mmjax.losses.dense import MASKED
from mmjax.losses.tiles import product
from mmjax.parallel import rules
from mmjax.types import Array


@dataclass(frozen=True)
class Parts:
    """Which part of rows and vocabulary a device has, and how many positions it takes at a time."""

    mesh: AbstractMesh | None
    vocab_size: int
    chunk: int

    def run(self, function: Callable[..., Any], dims: str, results: str, *args: Array) -> Any:
        """`function` of each device's parts of `args`, whose dimensions are `dims`; those of its `results`, a tuple."""
        if self.mesh is None:
            return function(*args)
        in_specs, out_specs = (tuple(rules.spec(array) for array in arrays.split()) for arrays in (dims, results))
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*args)

    def over_vocabulary(self, reduce: Callable[[Any, Any], Any], x: Any) -> Any:
        """`reduce`, a `jax.lax.psum` or `pmax`, of what each device has of its part of the vocabulary."""
        return x if self.mesh is None else reduce(x, rules.TENSOR_AXIS)

    def over_rows(self, x: Any) -> Any:
        """The sum of what each device has of its rows."""
        return x if self.mesh is None else jax.lax.psum(x, rules.BATCH_AXES)

    def word_ids(self, num_words: int) -> Array:
        """Int32 (v,): the ids of the rows that this device has of the table."""
        part = 0 if self.mesh is None else jax.lax.axis_index(rules.TENSOR_AXIS)
        return part * num_words + jnp.arange(num_words, dtype=jnp.int32)


class Vocabulary(NamedTuple):
    """What a device has of it: ids (v,), rows (v, d), float32 bias (v,), `MASKED` at rows of padding."""

    ids: Array
    table: Array
    bias: Array

    @classmethod
    def of(cls, parts: Parts, table: Array, bias: Array) -> "Vocabulary":
        ids = parts.word_ids(len(table))
        return cls(ids, table, jnp.where(ids < parts.vocab_size, bias, MASKED))

    def logits(self, features: Array) -> Array:
        """Float32 (t, v) of features (t, d)."""
        return product("td,vd->tv", features, self.table) + self.bias

    def shares(self, features: Array, largest: Array, inverse_total: Array) -> Array:
        """Float32 (t, v): the softmax of these logits, from their `Statistics` over the whole vocabulary."""
        return jnp.exp(self.logits(features) - largest[:, None]) * inverse_total[:, None]

    def is_label(self, labels: Array) -> Array:
        """Bool (t, v); a label of another device's words, or -1, is none of these."""
        return self.ids == labels[:, None]


class Statistics(NamedTuple):
    """Of each position, from logits over words: that of the label, or 0 where it is not among them; the largest of the
    others; the largest; and sum exp(logit - largest)."""

    label: Array
    others: Array
    largest: Array
    total: Array

    @classmethod
    def of(cls, logits: Array, is_label: Array) -> "Statistics":
        label = jnp.sum(jnp.where(is_label, logits, 0), axis=1)
        others = jnp.max(jnp.where(is_label, MASKED, logits), axis=1)
        largest = jnp.max(logits, axis=1)
        return cls(label, others, largest, jnp.sum(jnp.exp(logits - largest[:, None]), axis=1))

    def combined(self, parts: Parts) -> "Statistics":
        """From those over a part of the vocabulary those over all of it."""
        others, largest = parts.over_vocabulary(jax.lax.pmax, (self.others, self.largest))
        total = self.total * jnp.exp(self.largest - largest)
        label, total = parts.over_vocabulary(jax.lax.psum, (self.label, total))
        return Statistics(label, others, largest, total)


class Agreement(NamedTuple):
    """Of each position, from logits l and those of a teacher r over words: the largest r; sum exp(r - largest); and sum
    exp(r - largest) l, of which the mean of l under the teacher is made."""

    largest: Array
    total: Array
    product: Array

    @classmethod
    def of(cls, logits: Array, taught: Array) -> "Agreement":
        largest = jnp.max(taught, axis=1)
        factors = jnp.exp(taught - largest[:, None])
        return cls(largest, jnp.sum(factors, axis=1), jnp.sum(factors * logits, axis=1))

    def combined(self, parts: Parts) -> "Agreement":
        """From those over a part of the vocabulary those over all of it."""
        largest = parts.over_vocabulary(jax.lax.pmax, self.largest)
        factor = jnp.exp(self.largest - largest)
        total, product = parts.over_vocabulary(jax.lax.psum, (self.total * factor, self.product * factor))
        return Agreement(largest, total, product)
