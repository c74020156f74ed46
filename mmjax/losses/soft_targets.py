"""How much of a pair two examples are whose captions share words: soft targets for a contrastive loss."""

import jax.numpy as jnp

from mmjax.parallel import rules
from mmjax.types import Array


def word_overlap(words: Array, weights: Array) -> Array:
    """The cosine float32 (i, j), in [0, 1], of the TF-IDF vectors of examples i and j.

    The vector of an example has log(b / n_u) at each of its words u, where n_u of the b examples have u: a word of
    every example counts nothing, a word of one example the most. `words` int (b, w) are those of each example, each
    once, 0 where there is none. Examples of `weights` (b,) 0 are not counted, and overlap with nothing. Takes
    O(b^2 w^2) comparisons: for batches of hundreds or a few thousands.

    Source: Salton and Buckley (1988), "Term-weighting approaches in automatic text retrieval", binary term frequency.
    """
    words = jnp.where((weights > 0)[:, None], words, 0)
    shared = _have_word(words)
    num_examples, num_having = jnp.sum(weights > 0), jnp.sum(shared, axis=2)
    rarity = jnp.where(words == 0, 0.0, jnp.log(num_examples / jnp.maximum(num_having, 1)))
    products = jnp.sum(jnp.square(rarity)[:, :, None] * shared, axis=1)
    lengths = jnp.sqrt(jnp.sum(jnp.square(rarity), axis=1))
    scale = lengths[:, None] * rules.gather(lengths, "j")[None, :]
    return jnp.minimum(products / jnp.where(scale == 0, 1, scale), 1)


def _have_word(words: Array) -> Array:
    """Bool (b, w, j): whether example j has word w of example b; padding is a word like others here."""
    return jnp.any(words[:, :, None, None] == rules.gather(words, "js")[None, None], axis=3)
