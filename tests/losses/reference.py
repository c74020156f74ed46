"""The contrastive losses again in float64 numpy, and derivatives by central differences."""

import math
from collections.abc import Callable

import numpy as np

STEP = 1e-6


def sigmoid(image, text, log_scale, bias, ids, weights, soft_targets=None) -> float:
    targets = _targets(ids, soft_targets)
    logits = math.exp(log_scale) * image @ text.T + bias
    losses = targets * np.logaddexp(0, -logits) + (1 - targets) * np.logaddexp(0, logits)
    return float(weights @ losses @ weights / weights.sum())


def softmax(image, text, log_scale, bias, ids, weights, soft_targets=None) -> float:
    targets = _targets(ids, soft_targets)
    return (
        _one_way(image, text, log_scale, targets, weights) + _one_way(text, image, log_scale, targets.T, weights)
    ) / 2


def _one_way(rows, columns, log_scale, targets, weights) -> float:
    kept = np.flatnonzero(weights)
    total = 0.0
    for i in kept:
        logits = math.exp(log_scale) * (columns[kept] @ rows[i])
        log_shares = logits - np.logaddexp.reduce(logits + np.log(weights[kept]))
        total -= weights[i] * np.average(log_shares, weights=targets[i, kept] * weights[kept])
    return float(total / weights.sum())


def _targets(ids, soft_targets) -> np.ndarray:
    others = np.zeros((len(ids), len(ids))) if soft_targets is None else soft_targets
    return np.where(np.equal.outer(ids, ids), 1.0, others)


def word_overlap(words, weights) -> np.ndarray:
    sets = [set(row.tolist()) - {0} if weight else set() for row, weight in zip(words, weights, strict=True)]
    num_examples = np.count_nonzero(weights)
    rarity = {u: math.log(num_examples / sum(u in have for have in sets)) for u in set().union(*sets)}
    overlap = np.zeros((len(sets), len(sets)))
    for i, left in enumerate(sets):
        for j, right in enumerate(sets):
            lengths = [math.sqrt(sum(rarity[u] ** 2 for u in have)) for have in (left, right)]
            if all(lengths):
                overlap[i, j] = sum(rarity[u] ** 2 for u in left & right) / math.prod(lengths)
    return overlap


def gradient(loss: Callable[..., float], position: int, *args) -> np.ndarray:
    """The derivative of `loss(*args)` by its argument at `position`, float64."""
    point = np.asarray(args[position], np.float64)
    result = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        ends = []
        for sign in (1, -1):
            moved = point.copy()
            moved[index] += sign * STEP
            ends.append(loss(*args[:position], moved, *args[position + 1 :]))
        result[index] = (ends[0] - ends[1]) / (2 * STEP)
    return result
