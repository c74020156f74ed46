"""Cross-entropy of tokens over a vocabulary so large that the logits of all positions would not fit in memory.

Logits exist for a chunk of positions at a time, forward and backward. On a mesh each device has those of its own rows
and its own part of the vocabulary; what devices send are a few numbers a position, and the gradients.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from mmjax.errors import UserError
from mmjax.losses.dense import MASKED
from mmjax.losses.tiles import Cut, product
from mmjax.parallel import rules
from mmjax.types import Array, Mean


class TokenLoss(NamedTuple):
    """Means over the labelled tokens of the batch: the cross-entropy, and the share that is predicted right."""

    loss: Mean
    correct: Mean


def token_cross_entropy(
    features: Array,
    table: Array,
    bias: Array,
    labels: Array,
    weights: Array | None = None,
    *,
    vocab_size: int,
    chunk: int,
    max_labels: int | None = None,
) -> TokenLoss:
    """The mean of -log p_y over positions with a label y, p = softmax_v(table_v . x + bias_v) over v < `vocab_size`.

    `features` x (b, t, d); `table` (v, d) and `bias` (v,), of which the rows from `vocab_size` on are storage padding
    that takes no part; `labels` int32 (b, t), each below `vocab_size`, -1 where nothing is to be predicted. A token
    counts as its example of `weights` (b,) does, by default as one; features of what does not count may be anything.
    It is predicted right where the logit of the label is above all others: ties count against the model.

    `chunk` is the number of positions of a device whose logits are held at once. `max_labels` is the most labels that
    any row has: only so many positions a row are computed on, the first labelled ones. Labels beyond it would be lost,
    so it is for labels that are bounded where they are made (`objectives.masking.MaskingConfig.max_labels`).

    Products are of the type of `features`, logits and sums are float32. Gradients flow to features, table and bias; for
    the backward pass two numbers a position are kept, beside the arguments, and each logit is computed again.

    Source: Devlin et al. (2019), section 3.1, task 1; of tokens of one chunk at a time, as Chen et al. (2016, "Training
    Deep Nets with Sublinear Memory Cost") compute what is not kept.

    Raises:
        UserError: `chunk` or `max_labels` is not positive.
        ValueError: the table has fewer rows than `vocab_size`.
    """
    if chunk < 1 or (max_labels is not None and max_labels < 1):
        raise UserError(f"chunk = {chunk} and max_labels = {max_labels} must be positive: correct them")
    if vocab_size > len(table):
        raise ValueError(f"a vocabulary of {vocab_size} has no table of {len(table)} rows")
    if max_labels is not None:
        features, labels = _labelled_first(features, labels, max_labels)
    counts = _counts(labels, weights)
    features = jnp.where(counts[:, :, None] > 0, features, 0)
    # Cast before it is gathered, as `nn.parameter.weight` does it; of a table from there both change nothing.
    table = rules.gather(table.astype(features.dtype), "vd")
    bias = rules.gather(bias.astype(jnp.float32), "v")
    losses, correct = _cross_entropies(_Parts(rules.current_mesh(), vocab_size, chunk), features, table, bias, labels)
    return TokenLoss(Mean.of(losses, counts), Mean.of(correct, counts))


def _labelled_first(features: Array, labels: Array, num: int) -> tuple[Array, Array]:
    """`num` positions of each row: those with a label in their order, then others."""
    order = jnp.argsort(labels < 0, axis=1, stable=True)[:, :num]
    return jnp.take_along_axis(features, order[:, :, None], axis=1), jnp.take_along_axis(labels, order, axis=1)


def _counts(labels: Array, weights: Array | None) -> Array:
    """Float32 (b, t): how many tokens each position counts as."""
    counts = jnp.where(labels >= 0, 1.0 if weights is None else weights[:, None], 0.0)
    return jax.lax.stop_gradient(counts.astype(jnp.float32))


@dataclass(frozen=True)
class _Parts:
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


class _Vocabulary(NamedTuple):
    """What a device has of it: ids (v,), rows (v, d), float32 bias (v,), `MASKED` at rows of padding."""

    ids: Array
    table: Array
    bias: Array

    @classmethod
    def of(cls, parts: _Parts, table: Array, bias: Array) -> "_Vocabulary":
        ids = parts.word_ids(len(table))
        return cls(ids, table, jnp.where(ids < parts.vocab_size, bias, MASKED))

    def logits(self, features: Array) -> Array:
        """Float32 (t, v) of features (t, d)."""
        return product("td,vd->tv", features, self.table) + self.bias

    def is_label(self, labels: Array) -> Array:
        """Bool (t, v); a label of another device's words, or -1, is none of these."""
        return self.ids == labels[:, None]


class _Statistics(NamedTuple):
    """Of each position, from logits over words: that of the label, or 0 where it is not among them; the largest of the
    others; the largest; and sum exp(logit - largest)."""

    label: Array
    others: Array
    largest: Array
    total: Array

    @classmethod
    def of(cls, logits: Array, is_label: Array) -> "_Statistics":
        label = jnp.sum(jnp.where(is_label, logits, 0), axis=1)
        others = jnp.max(jnp.where(is_label, MASKED, logits), axis=1)
        largest = jnp.max(logits, axis=1)
        return cls(label, others, largest, jnp.sum(jnp.exp(logits - largest[:, None]), axis=1))

    def combined(self, parts: _Parts) -> "_Statistics":
        """From those over a part of the vocabulary those over all of it."""
        others, largest = parts.over_vocabulary(jax.lax.pmax, (self.others, self.largest))
        total = self.total * jnp.exp(self.largest - largest)
        label, total = parts.over_vocabulary(jax.lax.psum, (self.label, total))
        return _Statistics(label, others, largest, total)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropies(parts: _Parts, features: Array, table: Array, bias: Array, labels: Array) -> tuple[Array, Array]:
    """Float32 (b, t), (b, t): -log p of the label, and 1 where it is predicted right; without meaning at label -1."""
    return _forward(parts, features, table, bias, labels)[0]


def _forward(
    parts: _Parts, features: Array, table: Array, bias: Array, labels: Array
) -> tuple[tuple[Array, Array], Any]:
    args = features, table, bias, labels
    function = functools.partial(_local_statistics, parts)
    label, others, largest, total = parts.run(function, "btd vd v bt", "bt bt bt bt", *args)
    # The log of a normaliser near 100 would lose digits, so the largest logit is kept apart.
    losses, correct = largest - label + jnp.log(total), (label > others).astype(jnp.float32)
    return (losses, correct), (*args, largest, 1 / total)


def _local_statistics(parts: _Parts, features: Array, table: Array, bias: Array, labels: Array) -> tuple[Array, ...]:
    words, cut = _Vocabulary.of(parts, table, bias), Cut.of(labels.size, parts.chunk)

    def step(_: None, chunk: tuple[Array, Array]) -> tuple[None, _Statistics]:
        features, labels = chunk
        return None, _Statistics.of(words.logits(features), words.is_label(labels))

    _, found = jax.lax.scan(step, None, (_chunks(cut, features), _chunks(cut, labels)))
    return tuple(x.reshape(labels.shape) for x in jax.tree.map(cut.join, found).combined(parts))


def _backward(parts: _Parts, kept: tuple[Array, ...], cotangents: tuple[Array, Array]) -> tuple[Array | None, ...]:
    function, dims = functools.partial(_local_gradients, parts), "btd vd v bt bt bt bt"
    return *parts.run(function, dims, "btd vd v", *kept, cotangents[0]), None


def _local_gradients(
    parts: _Parts,
    features: Array,
    table: Array,
    bias: Array,
    labels: Array,
    largest: Array,
    inverse_total: Array,
    cotangent: Array,
) -> tuple[Array, Array, Array]:
    words, cut = _Vocabulary.of(parts, table, bias), Cut.of(labels.size, parts.chunk)

    def step(sums: tuple[Array, Array], chunk: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        features, labels, largest, inverse_total, cotangent = chunk
        shares = jnp.exp(words.logits(features) - largest[:, None]) * inverse_total[:, None]
        slopes = cotangent[:, None] * (shares - words.is_label(labels))
        by_table = sums[0] + product("tv,td->vd", slopes, features)
        return (by_table, sums[1] + jnp.sum(slopes, axis=0)), product("tv,vd->td", slopes, words.table)

    zeros = jnp.zeros(table.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32)
    chunks = tuple(_chunks(cut, x) for x in (features, labels, largest, inverse_total, cotangent))
    sums, by_features = jax.lax.scan(step, zeros, chunks)
    by_table, by_bias = parts.over_rows(sums)
    by_features = parts.over_vocabulary(jax.lax.psum, cut.join(by_features)).reshape(features.shape)
    return by_features.astype(features.dtype), by_table.astype(table.dtype), by_bias


_cross_entropies.defvjp(_forward, _backward)


def _chunks(cut: Cut, x: Array) -> Array:
    """(b, t, ...) as (chunks, positions of a chunk, ...); what pads them is cut off again, or has no cotangent."""
    return cut.split(x.reshape(-1, *x.shape[2:]))
