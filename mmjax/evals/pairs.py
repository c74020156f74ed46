"""Scores of chosen (image, caption) pairs by a model that looks at both together, from towers that ran once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax.data.placement import place_whole
from mmjax.evals.embed import PairScorer, Tree, everywhere, joined, take
from mmjax.parallel.rules import batch_divisor, batch_sharding
from mmjax.types import Array, Params


@dataclass(frozen=True)
class Towers:
    """What the towers make of images and captions, on the host: rows of trees of arrays."""

    images: Tree
    captions: Tree


def encode_texts(
    scorer: PairScorer, params: Params, text_ids: np.ndarray, text_mask: np.ndarray, batch_size: int
) -> Tree:
    """What the text tower makes of tokens, in their order."""
    arrays = {"text_ids": text_ids, "text_mask": text_mask}

    def encode(rows: dict[str, Array]) -> Tree:
        return scorer.text(params, rows["text_ids"], rows["text_mask"])

    return _in_batches(scorer.mesh, encode, arrays, batch_size)


def pair_scores(scorer: PairScorer, params: Params, towers: Towers, pairs: np.ndarray, batch_size: int) -> np.ndarray:
    """Log odds float32 (n,) of pairs int (n, 2), each a row of the images and one of the captions."""

    def match(rows: dict[str, Tree]) -> Array:
        return scorer.match(params, rows["text"], rows["image"])

    return _over_pairs(scorer.mesh, match, towers, pairs, batch_size)


def pair_words(scorer: PairScorer, params: Params, towers: Towers, pairs: np.ndarray, batch_size: int) -> np.ndarray:
    """The likeliest token int32 (n, t) at each place of the text of each pair."""

    def words(rows: dict[str, Tree]) -> Array:
        return scorer.words(params, rows["text"], rows["image"])

    return _over_pairs(scorer.mesh, words, towers, pairs, batch_size)


def _over_pairs(
    mesh: Mesh, function: Callable[[dict[str, Tree]], Array], towers: Towers, pairs: np.ndarray, batch_size: int
) -> np.ndarray:
    parts = []
    # Rows of a batch are gathered when it is their turn: all pairs at once would be many times what the towers made.
    size = _whole(mesh, batch_size)
    for start in range(0, len(pairs), size):
        chunk = pairs[start : start + size]
        rows = {"image": take(towers.images, chunk[:, 0]), "text": take(towers.captions, chunk[:, 1])}
        parts.append(_in_batches(mesh, function, rows, size))
    return np.concatenate(parts)


def _in_batches(mesh: Mesh, function: Callable[[Any], Tree], rows: Tree, batch_size: int) -> Tree:
    """`function` of all rows; the last batch is filled with its first row."""
    num_rows, size = len(jax.tree.leaves(rows)[0]), _whole(mesh, batch_size)
    parts = []
    for start in range(0, num_rows, size):
        chunk = take(rows, slice(start, start + size))
        filled = jax.tree.map(lambda x: np.concatenate([x, x[:1].repeat(size - len(x), axis=0)]), chunk)
        placed = jax.tree.map(lambda x: place_whole(x, batch_sharding(mesh)), filled)
        with jax.set_mesh(mesh):
            found = function(placed)
        parts.append(jax.device_get(everywhere(mesh, found)))
    return take(joined(parts), slice(num_rows))


def _whole(mesh: Mesh, size: int) -> int:
    divisor = batch_divisor(mesh)
    return -(-size // divisor) * divisor
