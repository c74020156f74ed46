"""Losses of a pair as a whole: whether image and text belong together, and what the answer to a question is.

An example of `weights` (b,) w counts as w examples; what does not count may be anything, and has no gradient. Logits
may be bfloat16; all is computed in float32.
"""

import jax
import jax.numpy as jnp

from mmjax.losses import dense
from mmjax.losses.regions import class_cross_entropy
from mmjax.types import Array, Mean


def pair_cross_entropy(logits: Array, matched: Array, weights: Array) -> Mean:
    """-log softmax(l)_m of `logits` l (b, 2) and m = `matched` (b,): 1 or true where the text belongs to the image.

    So index 1 of the logits is the right pair, as UNITER and LXMERT have it. In the authors' code of ViLBERT it is the
    mismatch: a head with their weights wants 1 - `matched`.

    Source: ViLBERT, Lu et al. (2019), section 2.2, "multi-modal alignment prediction"; UNITER, Chen et al. (2020),
    section 3.2, "Image-Text Matching"; LXMERT, Tan and Bansal (2019), section 3.1.3.
    """
    everywhere = jnp.ones_like(matched, bool)
    return _of_examples(logits, matched.astype(jnp.int32), everywhere, weights)


def choice_cross_entropy(right: Array, wrong: Array, weights: Array) -> Mean:
    """log(1 + exp(o' - o)) of log odds o = `right` of each pair and o' = `wrong` of another one: the softmax over both.

    What lifts the odds of both changes nothing: it compares, as ranking does.

    Source: ViLBERT, Lu et al. (2019), section 3.2, "Caption-Based Image Retrieval", a softmax over a pair and three
    wrong ones.
    """
    counts = jax.lax.stop_gradient(weights.astype(jnp.float32))
    differences = wrong.astype(jnp.float32) - right.astype(jnp.float32)
    return Mean.of(jax.nn.softplus(jnp.where(counts != 0, differences, 0)), counts)


def answer_cross_entropy(logits: Array, answers: Array, weights: Array) -> Mean:
    """-log softmax(l)_y of `logits` l (b, c) and y = `answers` int (b,), of examples that have one; -1 is none.

    Any negative number is none. An answer that is not one of the c makes the loss NaN. LXMERT's authors give none to
    a question about another image.

    Source: LXMERT, Tan and Bansal (2019), section 3.1.3, "Image Question Answering".
    """
    return _of_examples(logits, answers, answers >= 0, weights)


def answer_binary_cross_entropy(logits: Array, scores: Array, weights: Array) -> Mean:
    """-sum_c (q_c log sigmoid(l_c) + (1 - q_c) log sigmoid(-l_c)) of `logits` l and `scores` q in [0, 1] (b, c).

    The score of an answer is how many people would agree, as in VQA; several may be right.

    Source: Teney et al. (2018), "soft scores as ground truth targets"; the authors' code of LXMERT fine-tunes so.
    """
    counts = jax.lax.stop_gradient(weights.astype(jnp.float32))
    counted = counts[:, None] != 0
    logits = jnp.where(counted, logits.astype(jnp.float32), 0)
    targets = jax.lax.stop_gradient(jnp.where(counted, scores.astype(jnp.float32), 0))
    return Mean.of(jnp.sum(dense.pair_losses(logits, targets), axis=-1), counts)


def _of_examples(logits: Array, labels: Array, labelled: Array, weights: Array) -> Mean:
    """Cross-entropy of `logits` (b, c): an example is a position of one."""
    return class_cross_entropy(logits[:, None], labels[:, None], labelled[:, None], weights)
