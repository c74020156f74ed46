"""Losses of distances: hinge over triplets, with all or the hardest negatives, and mean squared error of pairs."""

import jax.numpy as jnp

from mmjax.losses import dense
from mmjax.losses.tiles import Examples
from mmjax.parallel import rules
from mmjax.types import Array, Mean


def triplet(
    image_embed: Array,
    text_embed: Array,
    ids: Array | None = None,
    weights: Array | None = None,
    *,
    margin: float = 0.2,
    hardest: bool = True,
) -> Mean:
    """1/b sum_i (h_i + h'_i), h_i = max_j or sum_j of max(0, margin + s_ij - s_ii) over negatives j; h' the other way.

    s_ij = x_i . y_j of L2-normalised `image_embed` and `text_embed` (b, e). Of `hardest`, only the negative that breaks
    the margin most counts (VSE++), otherwise all. Rows of equal `ids` are no negatives of each other, and an example of
    `weights` 0 is none of any; of other weights, w counts as w examples among all negatives.

    Source: Faghri et al. (2018), eq. 5 (hardest) and eq. 4 (all).
    """
    similarities = dense.similarities(image_embed, text_embed)
    examples = Examples(ids, weights)
    counts = dense.example_weights(image_embed, examples)
    row_weights, column_weights = dense.sides(counts)
    negative = dense.targets(similarities, examples) == 0
    own = jnp.sum(image_embed.astype(jnp.float32) * text_embed.astype(jnp.float32), axis=1)
    own_of_rows, own_of_columns = dense.sides(own)
    by_image = jnp.where(negative, jnp.maximum(margin + similarities - own_of_rows, 0), 0)
    by_text = jnp.where(negative, jnp.maximum(margin + similarities - own_of_columns, 0), 0)
    if hardest:
        image_losses = jnp.max(by_image * (column_weights > 0), axis=1)
        text_losses = jnp.max(by_text * (row_weights > 0), axis=0)
    else:
        image_losses, text_losses = jnp.sum(by_image * column_weights, axis=1), jnp.sum(by_text * row_weights, axis=0)
    total = jnp.sum(counts * image_losses) + jnp.sum(rules.gather(counts, "j") * text_losses)
    return Mean(total, jnp.sum(counts))


def alignment(image_embed: Array, text_embed: Array, weights: Array | None = None) -> Mean:
    """1/b sum_i |x_i - y_i|^2 of the pairs of `image_embed` and `text_embed` (b, e), whatever their norms.

    It pulls pairs together and pushes nothing apart: beside another loss, or towards embeddings that are given.

    Source: Wang and Isola (2020), eq. 5 with alpha = 2.
    """
    differences = image_embed.astype(jnp.float32) - text_embed.astype(jnp.float32)
    counts = dense.example_weights(image_embed, Examples(weights=weights))
    return Mean.of(jnp.sum(jnp.square(differences), axis=1), counts)
