"""Cross-entropy of tokens over a vocabulary so large that the logits of all positions would not fit in memory.

Logits exist for a chunk of positions at a time, forward and backward. On a mesh each device has those of its own rows
and its own part of the vocabulary; what devices send are a few numbers a position, and the gradients.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mmjax.errors import UserError
from mmjax.losses.tiles import Cut, product
from mmjax.losses.vocabulary import Agreement, Parts, Statistics, Vocabulary
from mmjax.parallel import rules
from mmjax.types import Array, Mean


class TokenLoss(NamedTuple):
    """Means over the labelled tokens of the batch: the cross-entropy, and the share that is predicted right."""

    loss: Mean
    correct: Mean


class TokenTeacher(NamedTuple):
    """What another model makes of the same positions: features (b, t, d), table (v, d), bias (v,), as those of the
    loss; and the share of the target, in [0, 1], that is its own probabilities."""

    features: Array
    table: Array
    bias: Array
    share: Array


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
    teacher: TokenTeacher | None = None,
) -> TokenLoss:
    """The mean of -log p_y over positions with a label y, p = softmax_v(table_v . x + bias_v) over v < `vocab_size`.

    `features` x (b, t, d); `table` (v, d) and `bias` (v,), of which the rows from `vocab_size` on are storage padding
    that takes no part; `labels` int32 (b, t), each below `vocab_size`, -1 where nothing is to be predicted. A token
    counts as its example of `weights` (b,) does, by default as one; features of what does not count may be anything.
    It is predicted right where the logit of the label is above all others: ties count against the model.

    `chunk` is the number of positions of a device whose logits are held at once. `max_labels` is the most labels that
    any row has: only so many positions a row are computed on, the first labelled ones. Labels beyond it would be lost,
    so it is for labels that are bounded where they are made (`objectives.masking.MaskingConfig.max_labels`).

    With a `teacher` of probabilities q and share a, which are constants, the loss of a position is -(1 - a) log p_y - a
    sum_v q_v log p_v: momentum distillation.

    Products are of the type of `features`, logits and sums are float32. Gradients flow to features, table and bias; for
    the backward pass two numbers a position are kept, beside the arguments, and each logit is computed again.

    Source: Devlin et al. (2019), section 3.1, task 1; of tokens of one chunk at a time, as Chen et al. (2016, "Training
    Deep Nets with Sublinear Memory Cost") compute what is not kept; distillation from ALBEF, Li et al. (2021), eq. 7.

    Raises:
        UserError: `chunk` or `max_labels` is not positive.
        ValueError: the table has fewer rows than `vocab_size`.
    """
    if chunk < 1 or (max_labels is not None and max_labels < 1):
        raise UserError(f"chunk = {chunk} and max_labels = {max_labels} must be positive: correct them")
    if vocab_size > len(table):
        raise ValueError(f"a vocabulary of {vocab_size} has no table of {len(table)} rows")
    positions: tuple[Array, ...] = (features,) if teacher is None else (features, teacher.features)
    if max_labels is not None:
        positions, labels = _labelled_first(positions, labels, max_labels)
    counts = _counts(labels, weights)
    features, *taught = (jnp.where(counts[:, :, None] > 0, x, 0) for x in positions)
    args: tuple[Array, ...] = (features, *_gathered(table, bias, features.dtype), labels)
    if teacher is not None:
        words = _gathered(teacher.table, teacher.bias, features.dtype)
        shares = teacher.share.astype(jnp.float32) * jnp.ones_like(counts)
        args = *args, *jax.lax.stop_gradient((*taught, *words, shares))
    losses, correct = _cross_entropies(Parts(rules.current_mesh(), vocab_size, chunk), *args)
    return TokenLoss(Mean.of(losses, counts), Mean.of(correct, counts))


def _gathered(table: Array, bias: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """Cast before it is gathered, as `nn.parameter.weight` does it; of a table from there both change nothing."""
    return rules.gather(table.astype(dtype), "vd"), rules.gather(bias.astype(jnp.float32), "v")


def _labelled_first(positions: tuple[Array, ...], labels: Array, num: int) -> tuple[tuple[Array, ...], Array]:
    """`num` positions of each row: those with a label in their order, then others."""
    order = jnp.argsort(labels < 0, axis=1, stable=True)[:, :num]
    chosen = tuple(jnp.take_along_axis(x, order[:, :, None], axis=1) for x in positions)
    return chosen, jnp.take_along_axis(labels, order, axis=1)


def _counts(labels: Array, weights: Array | None) -> Array:
    """Float32 (b, t): how many tokens each position counts as."""
    counts = jnp.where(labels >= 0, 1.0 if weights is None else weights[:, None], 0.0)
    return jax.lax.stop_gradient(counts.astype(jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropies(
    parts: Parts, features: Array, table: Array, bias: Array, labels: Array, *teacher: Array
) -> tuple[Array, Array]:
    """Float32 (b, t), (b, t): the loss, and 1 where the label is predicted right; without meaning at label -1.

    `teacher` is nothing, or the fields of a `TokenTeacher`, of which the share is (b, t).
    """
    return _forward(parts, features, table, bias, labels, *teacher)[0]


def _forward(
    parts: Parts, features: Array, table: Array, bias: Array, labels: Array, *teacher: Array
) -> tuple[tuple[Array, Array], Any]:
    args = features, table, bias, labels
    function, dims = functools.partial(_local_statistics, parts), ["btd vd v bt", "btd vd v bt"]
    results = " ".join(["bt"] * (7 if teacher else 4))
    found = parts.run(function, " ".join(dims[: 2 if teacher else 1]), results, *args, *teacher)
    own = Statistics(*found[:4])
    target, taught = own.label, tuple[Array, ...]()
    if teacher:
        agreement, share = Agreement(*found[4:]), teacher[3]
        target = (1 - share) * own.label + share * agreement.product / agreement.total
        taught = (agreement.largest, 1 / agreement.total)
    # The log of a normaliser near 100 would lose digits, so the largest logit is kept apart.
    losses, correct = own.largest - target + jnp.log(own.total), (own.label > own.others).astype(jnp.float32)
    return (losses, correct), ((*args, own.largest, 1 / own.total), (*teacher, *taught))


def _local_statistics(
    parts: Parts, features: Array, table: Array, bias: Array, labels: Array, *teacher: Array
) -> tuple[Array, ...]:
    words, cut = Vocabulary.of(parts, table, bias), Cut.of(labels.size, parts.chunk)
    taught = Vocabulary.of(parts, *teacher[1:3]) if teacher else None

    def step(_: None, chunk: tuple[Array, ...]) -> tuple[None, Any]:
        features, labels, *taught_features = chunk
        logits = words.logits(features)
        found = Statistics.of(logits, words.is_label(labels))
        return None, (found,) if taught is None else (found, Agreement.of(logits, taught.logits(*taught_features)))

    chunks = tuple(_chunks(cut, x) for x in (features, labels, *teacher[:1]))
    _, found = jax.lax.scan(step, None, chunks)
    combined = (part.combined(parts) for part in jax.tree.map(cut.join, found))
    return tuple(x.reshape(labels.shape) for part in combined for x in part)


def _backward(parts: Parts, kept: tuple[Any, Any], cotangents: tuple[Array, Array]) -> tuple[Array | None, ...]:
    own, teacher = kept
    function, dims = functools.partial(_local_gradients, parts), "btd vd v bt bt bt bt"
    dims = f"{dims} btd vd v bt bt bt" if teacher else dims
    grads = parts.run(function, dims, "btd vd v", *own, cotangents[0], *teacher)
    return *grads, None, *([None] * 4 if teacher else [])


def _local_gradients(
    parts: Parts,
    features: Array,
    table: Array,
    bias: Array,
    labels: Array,
    largest: Array,
    inverse_total: Array,
    cotangent: Array,
    *teacher: Array,
) -> tuple[Array, Array, Array]:
    words, cut = Vocabulary.of(parts, table, bias), Cut.of(labels.size, parts.chunk)
    taught = Vocabulary.of(parts, *teacher[1:3]) if teacher else None

    def target(labels: Array, *taught_chunk: Array) -> Array:
        is_label = words.is_label(labels)
        if taught is None:
            return is_label
        features, share, largest, inverse_total = taught_chunk
        return share[:, None] * taught.shares(features, largest, inverse_total) + (1 - share[:, None]) * is_label

    def step(sums: tuple[Array, Array], chunk: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        features, labels, largest, inverse_total, cotangent, *taught_chunk = chunk
        slopes = cotangent[:, None] * (words.shares(features, largest, inverse_total) - target(labels, *taught_chunk))
        by_table = sums[0] + product("tv,td->vd", slopes, features)
        return (by_table, sums[1] + jnp.sum(slopes, axis=0)), product("tv,vd->td", slopes, words.table)

    zeros = jnp.zeros(table.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32)
    of_positions = features, labels, largest, inverse_total, cotangent, *teacher[:1], *teacher[3:]
    sums, by_features = jax.lax.scan(step, zeros, tuple(_chunks(cut, x) for x in of_positions))
    by_table, by_bias = parts.over_rows(sums)
    by_features = parts.over_vocabulary(jax.lax.psum, cut.join(by_features)).reshape(features.shape)
    return by_features.astype(features.dtype), by_table.astype(table.dtype), by_bias


_cross_entropies.defvjp(_forward, _backward)


def _chunks(cut: Cut, x: Array) -> Array:
    """(b, t, ...) as (chunks, positions of a chunk, ...); what pads them is cut off again, or has no cotangent."""
    return cut.split(x.reshape(-1, *x.shape[2:]))
