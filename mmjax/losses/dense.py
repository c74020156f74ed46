"""The contrastive losses as they are written in their papers, on the whole matrix of logits: the readable reference.

Row i of the image side belongs with row i of the text side, and with every row of equal `ids`; `soft_targets` may say
that it belongs in part with others too. An example of weight w counts as w examples: as a row, as a column, and as a
pair of others; one of weight 0 is not there. On a mesh the rows are split as the batch is, and the columns are whole.
"""

import jax
import jax.numpy as jnp

from mmjax.losses.tiles import Examples
from mmjax.parallel import rules
from mmjax.types import Array

MASKED = -1e30
"""The logit of a column that does not count: finite, so that a row of them has a finite gradient."""


def sigmoid_sum(image_embed: Array, text_embed: Array, log_scale: Array, bias: Array, examples: Examples) -> Array:
    """-sum_ij w_i w_j (q_ij log sigmoid(l_ij) + (1 - q_ij) log sigmoid(-l_ij)), l_ij = exp(log_scale) x_i . y_j + bias.

    Source: Zhai et al. (2023), eq. 1, where q is 0 or 1 and w is 1.
    """
    logits = jnp.exp(log_scale) * similarities(image_embed, text_embed) + bias
    row_weights, column_weights = sides(example_weights(image_embed, examples))
    return jnp.sum(row_weights * column_weights * pair_losses(logits, targets(logits, examples)))


def softmax_sum(image_embed: Array, text_embed: Array, log_scale: Array, examples: Examples) -> Array:
    """The mean of both directions of -sum_i w_i sum_j q_ij w_j log p_ij / sum_j q_ij w_j.

    p_ij = exp(l_ij) / sum_j w_j exp(l_ij) with l_ij = exp(log_scale) x_i . y_j: with one pair a row and weights of 1,
    -sum_i log softmax_j(l_ij) at j = i. The target is split over the pairs of a row.

    Source: Radford et al. (2021), fig. 3; several pairs as in Khosla et al. (2020), eq. 2, sum outside the logarithm.
    """
    logits = jnp.exp(log_scale) * similarities(image_embed, text_embed)
    weights = example_weights(image_embed, examples)
    row_weights, column_weights = sides(weights)
    pairs = targets(logits, examples)
    image_to_text = _cross_entropies(logits, pairs, column_weights, axis=1)
    text_to_image = _cross_entropies(logits, pairs, row_weights, axis=0)
    return (jnp.sum(weights * image_to_text) + jnp.sum(rules.gather(weights, "j") * text_to_image)) / 2


def pair_losses(logits: Array, targets: Array) -> Array:
    """-(q log sigmoid(l) + (1 - q) log sigmoid(-l)) of logits l and targets q."""
    # -log sigmoid(-l) = max(l, 0) + log(1 + exp(-|l|)), and -log sigmoid(l) is l less: a sure, right pair adds 0.
    return jnp.maximum(logits, 0) - targets * logits + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def similarities(row_embed: Array, column_embed: Array) -> Array:
    """x_i . y_j float32 (i, j) of (b, e) and (b, e): rows split as the batch is, columns whole on every device."""
    columns = rules.gather(column_embed.astype(jnp.float32), "je")
    found = jnp.einsum(
        "be,je->bj",
        row_embed.astype(jnp.float32),
        columns,
        precision=jax.lax.Precision.HIGHEST,
        out_sharding=rules.spec("bj"),
    )
    # On TPU XLA would compute what the loss makes of them again in each product of the backward pass, and take a sixth
    # of the time of its compilation for it.
    return jax.lax.optimization_barrier(found)


def targets(logits: Array, examples: Examples) -> Array:
    """Float32 (i, j): 1 where row i and column j belong together, otherwise what the soft targets say, or 0."""
    columns = jnp.arange(logits.shape[0]) if examples.ids is None else rules.gather(examples.ids, "j")
    # Rows must be split as those of the logits are, or every device would compare all with all.
    rows = rules.gather(columns, "b") if examples.ids is None else examples.ids
    same = rows[:, None] == columns
    others = jnp.zeros(()) if examples.soft_targets is None else examples.soft_targets.astype(jnp.float32)
    return jnp.where(same, 1.0, jax.lax.stop_gradient(others))


def example_weights(embed: Array, examples: Examples) -> Array:
    """Float32 (b,)."""
    weights = jnp.ones_like(embed[:, 0], jnp.float32) if examples.weights is None else examples.weights
    return jax.lax.stop_gradient(weights.astype(jnp.float32))


def sides(weights: Array) -> tuple[Array, Array]:
    """Weights (b,) as those of rows (i, 1) and of columns (1, j)."""
    return weights[:, None], rules.gather(weights, "j")[None, :]


def _cross_entropies(logits: Array, pairs: Array, weights: Array, axis: int) -> Array:
    """Of each row (`axis` 1) or column (`axis` 0), over columns or rows of these `weights`; 0 where it has no pair."""
    counted = jnp.where(weights > 0, logits + jnp.log(jnp.where(weights > 0, weights, 1)), MASKED)
    log_normaliser = jax.nn.logsumexp(counted, axis=axis)
    mass = jnp.sum(pairs * weights, axis=axis)
    hits = jnp.sum(pairs * weights * logits, axis=axis)
    return jnp.where(mass > 0, log_normaliser - hits / jnp.where(mass > 0, mass, 1), 0)
