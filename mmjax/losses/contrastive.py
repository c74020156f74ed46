"""Contrastive losses of two sets of embeddings over the global batch: sigmoid (SigLIP) and softmax (CLIP).

Row i of the image side belongs with row i of the text side, and with every row of equal `ids`; `soft_targets` may say
that it belongs in part with others too. Both losses compute in float32 and give a `Mean` over rows. A weight scales its
row; a row of weight 0 is also no column, so that a loss with masked rows is the loss without them.

Rows stay split over the batch axes. The columns are gathered: each device holds its rows against all columns.
"""

import jax
import jax.numpy as jnp

from mmjax.parallel import rules
from mmjax.types import Array, Mean

MASKED = -1e30
"""The logit of a column that does not count: finite, so that a row of them has a finite gradient."""


def sigmoid(
    image_embed: Array,
    text_embed: Array,
    log_scale: Array,
    bias: Array,
    ids: Array | None = None,
    weights: Array | None = None,
    soft_targets: Array | None = None,
) -> Mean:
    """-1/b sum_ij (q_ij log sigmoid(l_ij) + (1 - q_ij) log sigmoid(-l_ij)), l_ij = exp(log_scale) x_i . y_j + bias.

    The target q_ij is 1 for a pair, and otherwise `soft_targets` (i, j) in [0, 1], by default 0. `image_embed` x and
    `text_embed` y (b, e) are L2-normalised; `log_scale` and `bias` are scalars; `ids` int (b,): equal ids are pairs, by
    default only i = j; `weights` (b,), by default 1.

    Source: Zhai et al. (2023), eq. 1, where q is 0 or 1 and the sum is over the pairs of one batch.
    """
    logits = similarities(image_embed, text_embed) * jnp.exp(log_scale.astype(jnp.float32)) + bias
    # -log sigmoid(-l) = max(l, 0) + log(1 + exp(-|l|)), and -log sigmoid(l) is l less: a sure, right pair adds 0.
    excess = jnp.maximum(logits, 0) - pair_targets(logits, ids, soft_targets) * logits
    losses = excess + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    weights = _row_weights(logits, weights)
    return Mean.of(jnp.sum(jnp.where(counted_columns(weights), losses, 0), axis=1), weights)


def softmax(
    image_embed: Array,
    text_embed: Array,
    log_scale: Array,
    bias: Array | None = None,
    ids: Array | None = None,
    weights: Array | None = None,
    soft_targets: Array | None = None,
) -> Mean:
    """The mean of both directions of -1/b sum_ij q_ij log p_ij, where p_ij = softmax_j(exp(log_scale) x_i . y_j).

    The target q_ij is 1 for a pair and otherwise as `soft_targets` say, over the sum of its row: the mass of a row is
    split over its pairs. With one pair a row, -1/b sum_i log p_ii. Arguments as in `sigmoid`, so that either can stand
    for the other, but `soft_targets` must be symmetric here; a `bias` cancels out of a softmax and is not used.

    Source: Radford et al. (2021), fig. 3; several pairs as in Khosla et al. (2020), eq. 2, sum outside the logarithm.
    """
    scale = jnp.exp(log_scale.astype(jnp.float32))
    image_to_text = _cross_entropy(similarities(image_embed, text_embed) * scale, ids, weights, soft_targets)
    text_to_image = _cross_entropy(similarities(text_embed, image_embed) * scale, ids, weights, soft_targets)
    return Mean((image_to_text.sum + text_to_image.sum) / 2, image_to_text.count)


def similarities(row_embed: Array, column_embed: Array) -> Array:
    """x_i . y_j float32 (i, j) of (b, e) and (b, e): rows split as the batch is, columns whole on every device."""
    columns = rules.gather(column_embed.astype(jnp.float32), "je")
    return jnp.einsum(
        "be,je->bj",
        row_embed.astype(jnp.float32),
        columns,
        precision=jax.lax.Precision.HIGHEST,
        out_sharding=rules.spec("bj"),
    )


def positive_pairs(logits: Array, ids: Array | None) -> Array:
    """Bool (i, j): whether row i and column j belong together; i = j where there are no ids."""
    if ids is None:
        return jnp.arange(logits.shape[0])[:, None] == jnp.arange(logits.shape[1])
    return ids[:, None] == rules.gather(ids, "j")


def pair_targets(logits: Array, ids: Array | None, soft_targets: Array | None) -> Array:
    """Float32 (i, j): 1 where row i and column j belong together, otherwise what `soft_targets` say, or 0."""
    others = jnp.zeros(()) if soft_targets is None else soft_targets.astype(jnp.float32)
    return jnp.where(positive_pairs(logits, ids), 1.0, others)


def counted_columns(weights: Array) -> Array:
    """Bool (1, j): whether the column counts, from the `weights` (b,) of the rows."""
    return rules.gather(weights > 0, "j")[None, :]


def _cross_entropy(logits: Array, ids: Array | None, weights: Array | None, soft_targets: Array | None) -> Mean:
    weights = _row_weights(logits, weights)
    counted = counted_columns(weights)
    log_shares = jax.nn.log_softmax(jnp.where(counted, logits, MASKED), axis=1)
    targets = jnp.where(counted, pair_targets(logits, ids, soft_targets), 0)
    # A row that counts has itself for a pair, so its sum is at least 1; in others, log_shares of MASKED are dropped.
    mass = jnp.maximum(jnp.sum(targets, axis=1), 1)
    return Mean.of(-jnp.sum(jnp.where(targets > 0, targets * log_shares, 0), axis=1) / mass, weights)


def _row_weights(logits: Array, weights: Array | None) -> Array:
    return jnp.ones(logits.shape[0], jnp.float32) if weights is None else weights.astype(jnp.float32)
