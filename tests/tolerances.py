"""How far float32 results may lie apart. They are loosened nowhere else, and never silently."""

from typing import Any

import jax
import numpy as np

LAYER = 1e-5
"""One layer or loss against its reference, and any computation against itself on another mesh."""

LAYOUT = 1e-6
"""Gradients and parameters of one run on several processes against those on one, of as many devices."""

MODEL = 1e-4
"""A whole model against another framework's."""

ZERO = 1e-6
"""The norm below which a gradient counts as zero, as that of the key bias is: softmax does not see it."""

BFLOAT16 = 2.0**-7
"""The machine epsilon of bfloat16: its gradients against those of the same numbers in float32."""


def relative_errors(tree: Any, reference: Any, *, zero: float = ZERO) -> dict[str, float]:
    """|x - reference| / |reference| in the Euclidean norm of each array by its path, 0 where both are below `zero`."""
    errors = jax.tree.map(lambda x, y: _relative_error(np.asarray(x), np.asarray(y), zero), tree, reference)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): e for path, e in jax.tree.leaves_with_path(errors)}


def above(errors: dict[str, float], tolerance: float) -> dict[str, float]:
    """The errors that are too large; a test asserts that there are none, and so prints them. NaN is too large."""
    return {path: error for path, error in errors.items() if not error <= tolerance}


def _relative_error(x: np.ndarray, reference: np.ndarray, zero: float) -> float:
    x, reference = x.astype(np.float64), reference.astype(np.float64)
    scale = np.linalg.norm(reference)
    if scale < zero and np.linalg.norm(x) < zero:
        return 0.0
    return float(np.linalg.norm(x - reference) / scale)
