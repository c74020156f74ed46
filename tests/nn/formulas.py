"""Layers as their formulas, in float64, from our parameters."""

import math
from typing import Any

import numpy as np


def normed(norm: Any, x: np.ndarray, eps: float) -> np.ndarray:
    """Layer norm of x (b, t, d)."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + eps) * norm["scale"] + norm["bias"]


def affine(layer: Any, x: np.ndarray) -> np.ndarray:
    return x @ layer["kernel"] + layer["bias"]


def apart(x: np.ndarray, num_heads: int) -> np.ndarray:
    """(..., n * h) -> (..., n, h)."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def attended(attention: Any, num_heads: int, x: np.ndarray, source: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """softmax(Q K^T / sqrt(h)) V: queries from x (b, t, d), the rest from source (b, s, d) with its mask (b, s)."""
    projected = {"query": x, "key": source, "value": source}
    query, key, value = (apart(affine(attention[name], inputs), num_heads) for name, inputs in projected.items())
    scores = np.einsum("btnh,bsnh->bnts", query, key) / math.sqrt(query.shape[-1])
    weights = np.exp(scores) * mask[:, None, None, :]
    context = np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), value)
    return affine(attention["out"], context.reshape(*context.shape[:2], -1))
