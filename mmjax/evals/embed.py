"""Embeddings of a split's images and of lists of texts: computed over the mesh, gathered on every process."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax.data.placement import place, place_whole
from mmjax.errors import UserError
from mmjax.parallel.rules import batch_divisor, batch_sharding, replicated
from mmjax.types import Array, Batch, HostBatch, Params

Tokenize = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]
"""texts -> `text_ids` int32 (b, t), `text_mask` bool (b, t)."""


Tree = Any
"""A tree of arrays (n, ...)."""


@dataclass(frozen=True)
class PairScorer:
    """A fusion model as jitted functions of global arrays, and the mesh that they run on.

    `image(params, fields)`, of the fields of a batch that stand for its images, and `text(params, text_ids, text_mask)`
    give what the towers make of a side, any tree of arrays (b, ...), of which `image_embed(params, image)` and
    `text_embed(params, text)` make L2-normalised embeddings (b, e), with e 0 where there is no common space;
    `match(params, text, image)` the log odds float32 (b,) that those of one row belong together;
    `words(params, text, image)` the likeliest token int32 (b, t) at each place of the text; `scale(params)` what a
    similarity of the towers is multiplied with before it is added to the log odds. A model without the head for it
    cannot `match`, or guess `words`.
    """

    image: Callable[[Params, Batch], Tree]
    text: Callable[[Params, Array, Array], Tree]
    image_embed: Callable[[Params, Tree], Array]
    text_embed: Callable[[Params, Tree], Array]
    match: Callable[[Params, Tree, Tree], Array]
    words: Callable[[Params, Tree, Tree], Array]
    scale: Callable[[Params], Array]
    mesh: Mesh
    can_match: bool = True
    can_guess: bool = True


@dataclass(frozen=True)
class Encoders:
    """The two towers as jitted functions of global arrays, and the mesh that they run on.

    `image(params, fields)`, of the fields of a batch that stand for its images, and `text(params, text_ids, text_mask)`
    give L2-normalised embeddings (b, e). The batch size they see is constant over a run, so that each compiles once.
    `pairs` looks at both sides together, where the model can, and gives the embeddings then.
    """

    image: Callable[[Params, Batch], Array]
    text: Callable[[Params, Array, Array], Array]
    mesh: Mesh
    pairs: PairScorer | None = None

    def of_images(self, params: Params, fields: Batch) -> tuple[Array, Tree]:
        """Embeddings, and what the tower made before them for the fusion to read, where there is one."""
        if self.pairs is None:
            return self.image(params, fields), None
        tokens = self.pairs.image(params, fields)
        return self.pairs.image_embed(params, tokens), tokens

    def of_texts(self, params: Params, text_ids: Array, text_mask: Array) -> tuple[Array, Tree]:
        """The same of texts."""
        if self.pairs is None:
            return self.text(params, text_ids, text_mask), None
        tokens = self.pairs.text(params, text_ids, text_mask)
        return self.pairs.text_embed(params, tokens), tokens


class TextEmbeds(NamedTuple):
    """Embedded texts, in their order."""

    embeds: np.ndarray
    """float32 (n, e)."""
    tokens: Tree
    """What the tower of a fusion model made of them before that, (n, ...); None of other models."""


class ImageEmbeds(NamedTuple):
    """Embedded images of a split; rows of weight 0, padding and unreadable records, are left out."""

    embeds: np.ndarray
    """float32 (n, e)."""
    rows: np.ndarray
    """int64 (n,): the place of each image in the split."""
    digests: np.ndarray
    """uint64 (n,): of the pixels, or regions, that the tower saw; equal digests are identical images."""
    tokens: Tree
    """As of `TextEmbeds`."""


def embed_images(encoders: Encoders, params: Params, batches: Iterable[HostBatch]) -> ImageEmbeds:
    """Embeddings of one ordered pass over a split.

    Each process brings its own rows of every batch, and each gets the whole result. The batches must have one size,
    with weight 0 in the rows that fill the last one.

    Raises:
        UserError: no image of the split could be read.
    """
    steps = list(_one_late(_start(encoders, params, batch) for batch in batches))
    if not any(weights.any() for _, _, weights, _ in steps):
        raise UserError("the split to evaluate has no readable image: check the data named by data.source or --data")
    embeds, tokens, weights, digests = joined(steps)
    (rows,) = np.nonzero(weights)
    return ImageEmbeds(embeds[rows].astype(np.float32), rows, digests[rows].view(np.uint64)[:, 0], take(tokens, rows))


def embed_texts(
    encoders: Encoders, params: Params, tokenize: Tokenize, texts: list[str], batch_size: int
) -> TextEmbeds:
    """Embeddings of `texts`, in batches of `batch_size` rounded up to what the mesh divides."""
    divisor = batch_divisor(encoders.mesh)
    size = -(-batch_size // divisor) * divisor
    chunks = (texts[start : start + size] for start in range(0, len(texts), size))
    # The last chunk is filled with its own first text: one compiled shape, and the copies are cut off below.
    filled = (chunk + chunk[:1] * (size - len(chunk)) for chunk in chunks)
    steps = _one_late(_start_texts(encoders, params, *tokenize(chunk)) for chunk in filled)
    embeds, tokens = take(joined(list(steps)), slice(len(texts)))
    return TextEmbeds(embeds.astype(np.float32), tokens)


def _start(encoders: Encoders, params: Params, batch: HostBatch) -> tuple[Tree, ...]:
    fields = image_fields(batch)
    local = {**fields, "weights": batch["weights"], "digests": _digests(fields)}
    rows = place(local, batch_sharding(encoders.mesh))
    with jax.set_mesh(encoders.mesh):
        found = encoders.of_images(params, {name: rows[name] for name in fields})
    return everywhere(encoders.mesh, (*found, rows["weights"], rows["digests"]))


def _start_texts(encoders: Encoders, params: Params, text_ids: np.ndarray, text_mask: np.ndarray) -> tuple[Tree, ...]:
    placed = (place_whole(array, batch_sharding(encoders.mesh)) for array in (text_ids, text_mask))
    with jax.set_mesh(encoders.mesh):
        found = encoders.of_texts(params, *placed)
    return everywhere(encoders.mesh, found)


def everywhere(mesh: Mesh, tree: Tree) -> Tree:
    """The same on every device."""
    return jax.tree.map(lambda x: jax.sharding.reshard(x, replicated(mesh)), tree)


def joined(parts: list[Tree]) -> Tree:
    """Trees of rows, one after the other."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def take(tree: Tree, rows: np.ndarray | slice) -> Tree:
    """Some rows of a tree."""
    return jax.tree.map(lambda x: x[rows], tree)


def _one_late(steps: Iterable[tuple[Tree, ...]]) -> Iterator[tuple[Tree, ...]]:
    """Fetches each step after the next one was launched, so that the devices never wait for the host."""
    waiting: tuple[Tree, ...] | None = None
    for step in steps:
        if waiting is not None:
            yield jax.device_get(waiting)
        waiting = step
    if waiting is not None:
        yield jax.device_get(waiting)


def image_fields(batch: HostBatch) -> HostBatch:
    """The fields of a batch that stand for its images."""
    return {name: rows for name, rows in batch.items() if name == "image" or name.startswith("region_")}


def _digests(fields: HostBatch) -> np.ndarray:
    """uint32 (b, 2): 64 bits an image, in halves because JAX has no 64-bit integers by default."""
    rows = zip(*(fields[name] for name in sorted(fields)), strict=True)
    digests = [hashlib.blake2b(b"".join(part.tobytes() for part in row), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(digests), np.uint32).reshape(-1, 2)
