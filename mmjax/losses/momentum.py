"""Contrast with a queue of a teacher's embeddings: more negatives than a batch has, for the memory of their embeddings.

The queue is split over the mesh as batches are, and never moves: the queries, which are fewer, are gathered, and every
device compares all of them with its part of the keys.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmjax.losses import dense
from mmjax.parallel import rules
from mmjax.parallel.collectives import put
from mmjax.types import Array, Mean


class Queue(NamedTuple):
    """The teacher's embeddings of the last k batches.

    image, text: float32 (k, b, e), L2-normalised.
    ids: int32 (k, b), equal ids are pairs.
    weights: float32 (k, b), how many examples each stands for; 0 where the queue is not full yet.
    slot: int32 (), the batch that is the oldest.
    """

    image: Array
    text: Array
    ids: Array
    weights: Array
    slot: Array

    @classmethod
    def empty(cls, num_batches: int, batch_size: int, width: int) -> "Queue":
        """Room for `num_batches` of `batch_size` embeddings of `width`."""
        shape = num_batches, batch_size
        embed, numbers = rules.gather(jnp.zeros((*shape, width)), "obe"), rules.gather(jnp.zeros(shape), "ob")
        return cls(embed, embed, numbers.astype(jnp.int32), numbers, jnp.zeros((), jnp.int32))

    def push(self, image: Array, text: Array, ids: Array, weights: Array) -> "Queue":
        """With a batch of embeddings (b, e), ids and weights (b,) in place of the oldest one; they are constants."""
        new = jax.lax.stop_gradient((image.astype(jnp.float32), text.astype(jnp.float32), ids, weights))
        old = (self.image, self.text, self.ids, self.weights)
        image, text, ids, weights = put(old, new, self.slot)
        return Queue(image, text, ids, weights, (self.slot + 1) % len(ids))


def momentum_contrastive(
    image_embed: Array,
    text_embed: Array,
    teacher_image: Array,
    teacher_text: Array,
    queue: Queue,
    log_scale: Array | float,
    ids: Array,
    weights: Array,
    *,
    distillation: Array | float = 0.0,
) -> Mean:
    """The mean of both ways of -1/b sum_i sum_k q_ik log p_ik, p_i = softmax_k(exp(log_scale) x_i . k).

    Queries are `image_embed` and `text_embed` (b, e), keys the other side's embeddings in `queue`, into which those of
    this batch, `teacher_image` and `teacher_text` (b, e), were pushed: with them a row has its pair among the keys.
    Equal `ids` (b,) are pairs, an example of `weights` (b,) w counts as w examples. The target q_i is 1 -
    `distillation` split over the pairs of the row, and `distillation` times the teacher's own p_i.

    Source: MoCo, He et al. (2020), eq. 1, where q is 1 for the pair; with two modalities, the batch among the keys and
    the teacher's targets ALBEF, Li et al. (2021), eqs. 1, 2 and 6 (the divergence there is this cross-entropy less the
    entropy of the teacher, which has no gradient).
    """
    scale = jnp.exp(jnp.asarray(log_scale, jnp.float32))
    counts, row_ids = (rules.gather(x, "o") for x in (weights.astype(jnp.float32), ids))
    same = (row_ids[:, None, None] == queue.ids).astype(jnp.float32)

    def one_way(queries: Array, teacher_queries: Array, keys: Array) -> Array:
        log_shares = _log_shares(queries, keys, queue.weights, scale)
        teacher = jax.lax.stop_gradient(jnp.exp(_log_shares(teacher_queries, keys, queue.weights, scale)))
        mass = jnp.sum(queue.weights * same, axis=(1, 2), keepdims=True)
        targets = (1 - distillation) * same / jnp.where(mass > 0, mass, 1) + distillation * teacher
        # A row of weight 0 has no pair, and no loss.
        return jnp.where(mass[:, 0, 0] > 0, -jnp.sum(queue.weights * targets * log_shares, axis=(1, 2)), 0)

    losses = one_way(image_embed, teacher_image, queue.text) + one_way(text_embed, teacher_text, queue.image)
    return Mean.of(losses / 2, counts)


def _log_shares(queries: Array, keys: Array, key_weights: Array, scale: Array) -> Array:
    """log p of one example of each key, (queries, k, b); 0 of keys that do not count."""
    products = jnp.einsum(
        "ie,kje->ikj",
        rules.gather(queries.astype(jnp.float32), "oe"),
        keys,
        precision=jax.lax.Precision.HIGHEST,
        out_sharding=rules.spec("oob"),
    )
    counted = key_weights > 0
    logits = jnp.where(counted, scale * products, dense.MASKED)
    normaliser = jax.nn.logsumexp(logits, axis=(1, 2), keepdims=True, b=key_weights)
    return jnp.where(counted, logits - normaliser, 0)
