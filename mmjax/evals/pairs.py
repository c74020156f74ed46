"""Scores of chosen (image, caption) pairs by a model that looks at both together, from towers that ran once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax.data.placement import place, place_whole
from mmjax.evals.embed import PairScorer, Tokenize, Tree, image_fields
from mmjax.evals.split import EvalSplit
from mmjax.parallel.rules import batch_divisor, batch_sharding, replicated
from mmjax.types import Array, Params


@dataclass(frozen=True)
class Towers:
    """What the towers make of images and captions, on the host: rows of trees of arrays."""

    images: Tree
    captions: Tree


def towers_of(
    scorer: PairScorer, params: Params, split: EvalSplit, image_rows: np.ndarray, captions: list[str]
) -> Towers:
    """The towers of those rows of the split, and of these captions; each is run once."""
    images = _take(_joined(list(_images(scorer, params, split))), image_rows)
    return Towers(images, encode_captions(scorer, params, split.tokenize, captions, split.text_batch_size))


def encode_captions(
    scorer: PairScorer, params: Params, tokenize: Tokenize, captions: list[str], batch_size: int
) -> Tree:
    """What the text tower makes of captions, in their order."""
    return encode_texts(scorer, params, *tokenize(captions), batch_size)


def encode_texts(
    scorer: PairScorer, params: Params, text_ids: np.ndarray, text_mask: np.ndarray, batch_size: int
) -> Tree:
    """The same of tokens."""
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
        rows = {"image": _take(towers.images, chunk[:, 0]), "text": _take(towers.captions, chunk[:, 1])}
        parts.append(_in_batches(mesh, function, rows, size))
    return np.concatenate(parts)


def _images(scorer: PairScorer, params: Params, split: EvalSplit) -> Iterator[Tree]:
    for batch in split.batches():
        rows = place(image_fields(batch), batch_sharding(scorer.mesh))
        with jax.set_mesh(scorer.mesh):
            found = scorer.image(params, rows)
        yield _on_host(scorer.mesh, found)


def _in_batches(mesh: Mesh, function: Callable[[Any], Tree], rows: Tree, batch_size: int) -> Tree:
    """`function` of all rows; the last batch is filled with its first row."""
    num_rows, size = len(jax.tree.leaves(rows)[0]), _whole(mesh, batch_size)
    parts = []
    for start in range(0, num_rows, size):
        chunk = jax.tree.map(lambda x, at=start: x[at : at + size], rows)
        filled = jax.tree.map(lambda x: np.concatenate([x, x[:1].repeat(size - len(x), axis=0)]), chunk)
        placed = jax.tree.map(lambda x: place_whole(x, batch_sharding(mesh)), filled)
        with jax.set_mesh(mesh):
            found = function(placed)
        parts.append(_on_host(mesh, found))
    return jax.tree.map(lambda x: x[:num_rows], _joined(parts))


def _on_host(mesh: Mesh, tree: Tree) -> Tree:
    return jax.device_get(jax.tree.map(lambda x: jax.sharding.reshard(x, replicated(mesh)), tree))


def _joined(parts: list[Tree]) -> Tree:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _take(tree: Tree, rows: np.ndarray) -> Tree:
    return jax.tree.map(lambda x: x[rows], tree)


def _whole(mesh: Mesh, size: int) -> int:
    divisor = batch_divisor(mesh)
    return -(-size // divisor) * divisor
