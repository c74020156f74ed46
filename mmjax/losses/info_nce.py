"""InfoNCE and its variants: fixed or clamped temperature, one direction or both, label smoothing, hard negatives.

All hold the rows of a device against all columns, as the dense form of `contrastive` does, and count examples as it
does: equal ids are pairs, an example of weight w counts as w examples.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from mmjax.losses import dense
from mmjax.losses.tiles import Examples
from mmjax.parallel import rules
from mmjax.types import Array, Mean

Direction = Literal["both", "image_to_text", "text_to_image"]


def clamped_log_scale(log_scale: Array, largest_scale: float = 100.0) -> Array:
    """`log_scale`, at most log(largest_scale): logits of a learned temperature stay bounded, and at the bound it has no
    gradient that would push it further.

    Source: Radford et al. (2021), section 2.5, which clips the scale at 100.
    """
    return jnp.minimum(log_scale, math.log(largest_scale))


def info_nce(
    image_embed: Array,
    text_embed: Array,
    log_scale: Array | float,
    ids: Array | None = None,
    weights: Array | None = None,
    *,
    direction: Direction = "both",
    label_smoothing: float = 0.0,
    hardness: float = 0.0,
) -> Mean:
    """-1/b sum_i sum_j q_ij log p_ij, p_i = softmax_j(l_ij), l_ij = exp(log_scale) x_i . y_j; the mean of both ways.

    `image_embed` and `text_embed` (b, e) are L2-normalised. A `log_scale` that is a number is a fixed temperature
    exp(-log_scale); of a learned one see `clamped_log_scale`. The target of row i is 1 - `label_smoothing` split over
    its pairs, and `label_smoothing` in [0, 1) split over all columns. `hardness` beta >= 0 gives a negative of logit l
    the weight exp(beta l), divided by the mean of these weights over the row's negatives.

    Source: van den Oord et al. (2018), eq. 4; both ways Radford et al. (2021), fig. 3; smoothing Szegedy et al. (2016),
    section 7; hard negatives Robinson et al. (2021), eq. 4 with tau+ = 0.
    """
    logits = jnp.exp(jnp.asarray(log_scale, jnp.float32)) * dense.similarities(image_embed, text_embed)
    examples = Examples(ids, weights)
    pairs, counts = dense.targets(logits, examples), dense.example_weights(image_embed, examples)
    row_weights, column_weights = dense.sides(counts)
    ways = {
        "image_to_text": lambda: Mean.of(
            _cross_entropies(logits, pairs, column_weights, 1, label_smoothing, hardness), counts
        ),
        "text_to_image": lambda: Mean.of(
            _cross_entropies(logits, pairs, row_weights, 0, label_smoothing, hardness), rules.gather(counts, "j")
        ),
    }
    if direction != "both":
        return ways[direction]()
    first, second = (way() for way in ways.values())
    return Mean((first.sum + second.sum) / 2, first.count)


def _cross_entropies(
    logits: Array, pairs: Array, weights: Array, axis: int, label_smoothing: float, hardness: float
) -> Array:
    """Of each row (`axis` 1) or column (`axis` 0), over columns or rows of these `weights`; 0 where it has no pair."""
    counted = weights > 0
    mass = jnp.sum(pairs * weights, axis=axis, keepdims=True)
    smooth = weights / jnp.maximum(jnp.sum(weights, axis=axis, keepdims=True), jnp.finfo(jnp.float32).tiny)
    shares = (1 - label_smoothing) * pairs * weights / jnp.where(mass > 0, mass, 1) + label_smoothing * smooth
    if hardness:
        logits = jnp.where(pairs > 0, logits, logits + _hardness(logits, pairs, weights, axis, hardness))
    offered = jnp.where(counted, logits + jnp.log(jnp.where(counted, weights, 1)), dense.MASKED)
    losses = jax.nn.logsumexp(offered, axis=axis) - jnp.sum(shares * jnp.where(counted, logits, 0), axis=axis)
    return jnp.where(jnp.squeeze(mass, axis) > 0, losses, 0)


def _hardness(logits: Array, pairs: Array, weights: Array, axis: int, hardness: float) -> Array:
    """Logarithms of the negatives' weights: beta l, less the logarithm of its mean exponential over the negatives."""
    negatives = (1 - pairs) * weights
    count = jnp.sum(negatives, axis=axis, keepdims=True)
    offered = jnp.where(
        negatives > 0, hardness * logits + jnp.log(jnp.where(negatives > 0, negatives, 1)), dense.MASKED
    )
    mean = jax.nn.logsumexp(offered, axis=axis, keepdims=True) - jnp.log(jnp.maximum(count, 1e-30))
    return jnp.where(count > 0, hardness * logits - mean, 0)
