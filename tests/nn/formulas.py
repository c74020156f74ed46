"""Layers as their formulas, in float64, from our parameters."""

import math
from typing import Any

import numpy as np


def normed(norm: Any, x: np.ndarray, eps: float) -> np.ndarray:
    """Layer norm of x (b, t, d)."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + eps) * norm["scale"] + norm["bias"]


def attended(attention: Any, x: np.ndarray, source: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """softmax(Q K^T / sqrt(h)) V: queries from x (b, t, d), the rest from source (b, s, d) with its mask (b, s)."""
    projected = {"query": x, "key": source, "value": source}
    query, key, value = (
        np.einsum("btd,dnh->btnh", inputs, attention[name]["kernel"]) + attention[name]["bias"]
        for name, inputs in projected.items()
    )
    scores = np.einsum("btnh,bsnh->bnts", query, key) / math.sqrt(query.shape[-1])
    weights = np.exp(scores) * mask[:, None, None, :]
    context = np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), value)
    return np.einsum("btnh,nhd->btd", context, attention["out"]["kernel"]) + attention["out"]["bias"]
