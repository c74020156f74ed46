"""Losses of masked regions or patches: of their features, of their classes, and of which candidate they are.

`masked` bool (b, p) says which positions are predicted, and an example of `weights` (b,) w counts as w examples: each
loss is a mean over masked positions. What does not count may be anything, NaN too, and has no gradient. Targets are
constants. Inputs may be bfloat16; all is computed in float32.

Where few positions are masked, p may be those alone, gathered before; and they may as well be tokens.
"""

import jax
import jax.numpy as jnp

from mmjax.types import Array, Mean


def feature_regression(predicted: Array, target: Array, masked: Array, weights: Array) -> Mean:
    """1/c |x - y|^2 of `predicted` x and `target` y (b, p, c), features of regions or pixels of patches.

    Source: UNITER, Chen et al. (2020), section 3.2, "Masked Region Feature Regression", where the squares are summed
    (the authors' code takes their mean); of pixels MAE, He et al. (2022), section 3, "Reconstruction target".
    """
    counts = _counts(masked, weights)
    differences = _differences(predicted, target, counts)
    return Mean.of(jnp.mean(jnp.square(differences), axis=-1), counts)


def smooth_feature_regression(
    predicted: Array, target: Array, masked: Array, weights: Array, confidences: Array | None = None
) -> Mean:
    """1/c sum_c h(x_c - y_c) of `predicted` x and `target` y (b, p, c), h(d) = d^2/2 where |d| < 1, else |d| - 1/2.

    `confidences` (b, p) multiply the losses and are not counted; see `class_cross_entropy` for LXMERT's.

    Source: the authors' code of LXMERT, Tan and Bansal (2019), whose section 3.1.2 has squares; h is the smooth L1 of
    Girshick (2015), eq. 3.
    """
    counts = _counts(masked, weights)
    factors = _factors(counts, confidences)
    distances = jnp.abs(_differences(predicted, target, factors))
    losses = jnp.where(distances < 1, jnp.square(distances) / 2, distances - 0.5)
    return Mean(jnp.sum(factors * jnp.mean(losses, axis=-1)), jnp.sum(counts))


def class_cross_entropy(
    logits: Array, labels: Array, masked: Array, weights: Array, confidences: Array | None = None
) -> Mean:
    """-log softmax(l)_y of `logits` l (b, p, c) and the classes y = `labels` int (b, p).

    `confidences` (b, p), the detector's in its labels, multiply the losses and are not counted. A label that counts and
    is no class makes the loss NaN.

    LXMERT's authors predict objects and attributes of all regions, and features of those that are masked, and divide
    each sum by the number of all: `masked` is true everywhere, `confidences` are the detector's, or 1 where a region is
    masked and otherwise 0, and the loss is multiplied by 1/0.15.

    Source: UNITER, Chen et al. (2020), section 3.2, "Masked Region Classification", where y is the likeliest class but
    the background; LXMERT, Tan and Bansal (2019), section 3.1.2.
    """
    counts = _counts(masked, weights)
    factors = _factors(counts, confidences)
    labels = _counted(labels, factors)
    classes = jnp.arange(logits.shape[-1])
    log_shares = jax.nn.log_softmax(_counted(logits.astype(jnp.float32), factors))
    losses = -jnp.sum(jnp.where(labels[..., None] == classes, log_shares, 0), axis=-1)
    # Without this, classes of another detector would be left out without a word.
    is_class = (labels >= 0) & (labels < len(classes))
    return Mean(jnp.sum(factors * jnp.where(is_class, losses, jnp.nan)), jnp.sum(counts))


def class_divergence(logits: Array, probabilities: Array, masked: Array, weights: Array) -> Mean:
    """sum_c q_c (log q_c - log softmax(l)_c) of `logits` l and the detector's `probabilities` q (b, p, c); 0 log 0 = 0.

    The authors' code of UNITER takes the mean over classes, which is 1/c of this.

    Source: ViLBERT, Lu et al. (2019), section 2.2, "masked multi-modal modelling"; UNITER, Chen et al. (2020), section
    3.2, "Masked Region Classification with KL-Divergence".
    """
    counts = _counts(masked, weights)
    log_shares = jax.nn.log_softmax(_counted(logits.astype(jnp.float32), counts))
    targets = jax.lax.stop_gradient(_counted(probabilities.astype(jnp.float32), counts))
    losses = jnp.sum(jax.scipy.special.xlogy(targets, targets) - targets * log_shares, axis=-1)
    return Mean.of(losses, counts)


def contrastive_regions(predicted: Array, candidates: Array, masked: Array, weights: Array) -> Mean:
    """-log softmax(x . y_n)_0 of `predicted` x (b, p, c) and `candidates` y (b, p, n, c), of which the first is right.

    The other candidates are features of other regions, of this image and of others. Neither side is normalised.

    Source: the authors' code of ViLBERT and of 12-in-1, Lu et al. (2020), where it is `visual_target` 2.
    """
    factors = _counts(masked, weights)
    x = _counted(predicted.astype(jnp.float32), factors)
    y = jax.lax.stop_gradient(_counted(candidates.astype(jnp.float32), factors))
    scores = jnp.einsum("bpc,bpnc->bpn", x, y, precision=jax.lax.Precision.HIGHEST)
    return class_cross_entropy(scores, jnp.zeros_like(masked, jnp.int32), masked, weights)


def normalised_patches(patches: Array, epsilon: float = 1e-6) -> Array:
    """(x - mean) / sqrt(variance + epsilon) of the pixels x of each patch (b, p, c), float32.

    The variance is unbiased, of c - 1 degrees of freedom.

    Source: MAE, He et al. (2022), section 3, "Reconstruction target"; variance and epsilon from the authors' code.
    """
    patches = patches.astype(jnp.float32)
    centred = patches - jnp.mean(patches, axis=-1, keepdims=True)
    variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / (patches.shape[-1] - 1)
    return centred / jnp.sqrt(variance + epsilon)


def _counts(masked: Array, weights: Array) -> Array:
    """Float32 (b, p): how many positions each stands for."""
    return jax.lax.stop_gradient(jnp.where(masked, weights.astype(jnp.float32)[:, None], 0))


def _factors(counts: Array, confidences: Array | None) -> Array:
    """Float32 (b, p): what losses are multiplied with before they are added."""
    if confidences is None:
        return counts
    return counts * _counted(jax.lax.stop_gradient(confidences.astype(jnp.float32)), counts)


def _counted(x: Array, factors: Array) -> Array:
    """x (b, p, ...), and 0 at positions that do not count: their losses are then finite, and without gradient."""
    counted = jnp.expand_dims(factors != 0, tuple(range(2, x.ndim)))
    return jnp.where(counted, x, 0)


def _differences(predicted: Array, target: Array, factors: Array) -> Array:
    """Float32 (b, p, c)."""
    target = jax.lax.stop_gradient(target.astype(jnp.float32))
    return _counted(predicted.astype(jnp.float32) - target, factors)
