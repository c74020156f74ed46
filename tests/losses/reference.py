"""The contrastive losses again in float64 numpy, pair by pair, and derivatives by central differences."""

import math
from collections.abc import Callable

import numpy as np

STEP = 1e-6


def sigmoid(image, text, log_scale, bias, ids, weights) -> float:
    kept = np.flatnonzero(weights)
    total = 0.0
    for i in kept:
        for j in kept:
            logit = math.exp(log_scale) * float(image[i] @ text[j]) + bias
            total += weights[i] * math.log1p(math.exp(-logit if ids[i] == ids[j] else logit))
    return total / weights.sum()


def softmax(image, text, log_scale, bias, ids, weights) -> float:
    return (_one_way(image, text, log_scale, ids, weights) + _one_way(text, image, log_scale, ids, weights)) / 2


def _one_way(rows, columns, log_scale, ids, weights) -> float:
    kept = np.flatnonzero(weights)
    total = 0.0
    for i in kept:
        shares = np.exp(np.exp(log_scale) * (columns[kept] @ rows[i]))
        shares /= shares.sum()
        total -= weights[i] * np.mean(np.log(shares[ids[kept] == ids[i]]))
    return total / weights.sum()


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
