"""Ranks of right answers by cosine similarity, in bounded memory."""

import numpy as np

CHUNK_ELEMENTS = 2**24
"""Similarities held at once: 64 MiB of float32."""
TIE = 1e-6
"""Similarities closer than this are a tie: a few roundings of a float32 dot product of unit vectors."""


def ranks(
    queries: np.ndarray, candidates: np.ndarray, right: np.ndarray, chunk_elements: int = CHUNK_ELEMENTS
) -> np.ndarray:
    """int64 (q,): how many wrong candidates stand before the best right one; 0 means that the first answer is right.

    Ties count against the model: a wrong candidate that scores the same, within `TIE`, stands before. So a collapsed
    model, which gives everything one embedding, scores 0 rather than whatever order its rounding errors have, and
    so does one whose embeddings are not finite. A query without a right candidate ranks last.

    Args:
        queries: L2-normalised, (q, e).
        candidates: L2-normalised, (c, e).
        right: int (r, 2), the (query, candidate) pairs that are right.
    """
    right = right[np.argsort(right[:, 0], kind="stable")]
    rows = max(1, chunk_elements // max(1, len(candidates)))
    found = [np.zeros(0, np.int64)]
    for start in range(0, len(queries), rows):
        chunk = queries[start : start + rows]
        first, last = np.searchsorted(right[:, 0], (start, start + len(chunk)))
        is_right = np.zeros((len(chunk), len(candidates)), bool)
        is_right[right[first:last, 0] - start, right[first:last, 1]] = True
        found.append(_ranks(chunk @ candidates.T, is_right))
    return np.concatenate(found)


def hit_rate(rank: np.ndarray, k: int) -> float:
    """Share of queries, 0 to 1, with a right answer among the first `k`."""
    return float(np.mean(rank < k))


def _ranks(similarity: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    best = np.where(is_right, similarity, -np.inf).max(axis=1, keepdims=True)
    # "not below" rather than "above": a comparison with NaN is false, and NaN must not score.
    return np.sum(~(similarity < best - TIE) & ~is_right, axis=1)
