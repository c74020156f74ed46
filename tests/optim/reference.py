"""Float64 numpy optimizers, one parameter at a time, written from the papers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def adamw(param: Array, grads: Sequence[Array], lr: float, decay: float) -> Array:
    mu = nu = np.zeros_like(param)
    for t, grad in enumerate(grads, 1):
        mu, nu = 0.9 * mu + 0.1 * grad, 0.999 * nu + 0.001 * grad**2
        step = (mu / (1 - 0.9**t)) / (np.sqrt(nu / (1 - 0.999**t)) + 1e-8)
        param = param - lr * (step + decay * param)
    return param


def lion(param: Array, grads: Sequence[Array], lr: float, decay: float) -> Array:
    mu = np.zeros_like(param)
    for grad in grads:
        step = np.sign(0.9 * mu + 0.1 * grad)
        mu = 0.999 * mu + 0.001 * grad
        param = param - lr * (step + decay * param)
    return param


def sgd(param: Array, grads: Sequence[Array], lr: float, decay: float) -> Array:
    velocity = np.zeros_like(param)
    for grad in grads:
        velocity = 0.9 * velocity + grad
        param = param - lr * (velocity + decay * param)
    return param


def adafactor(param: Array, grads: Sequence[Array], lr: float, decay: float) -> Array:
    row = col = mu = np.zeros(())
    for t, grad in enumerate(grads, 1):
        keep, square = 1 - t**-0.8, grad**2 + 1e-30
        row = keep * row + (1 - keep) * square.mean(1)
        col = keep * col + (1 - keep) * square.mean(0)
        step = grad / np.sqrt(np.outer(row, col) / row.mean())
        step = step / max(1.0, np.sqrt((step**2).mean()))
        mu = 0.9 * mu + 0.1 * step
        param = param - lr * (mu + decay * param)
    return param


def muon_direction(grad: Array, num_steps: int = 5) -> Array:
    """A gradient (in, out) made nearly orthogonal by the quintic iteration of Jordan 2024."""
    a, b, c = 3.4445, -4.7750, 2.0315
    transposed = grad.shape[0] > grad.shape[1]
    x = (grad.T if transposed else grad) / np.linalg.norm(grad)
    for _ in range(num_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if transposed else x
