"""What a model makes of a split, kept for all evaluations of it."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmjax.evals.embed import Encoders, ImageEmbeds, embed_texts, take
from mmjax.evals.pairs import Towers
from mmjax.evals.split import EvalSplit
from mmjax.types import Params


class Pairs(NamedTuple):
    """Distinct images and distinct captions of a split, embedded, and which of them belong together."""

    image_embeds: np.ndarray
    """float32 (n, e); e is 0 where the model has no common space."""
    text_embeds: np.ndarray
    """float32 (c, e)."""
    captions: tuple[str, ...]
    rows: np.ndarray
    """int64 (n,): a row of the split that shows each image."""
    right: np.ndarray
    """int64 (r, 2): (image, caption) pairs that are right."""
    towers: Towers | None
    """Of both, where the model has a fusion that reads them."""


@dataclass(frozen=True)
class Seen:
    """The images of a split behind the tower, and its captions: each is run once, when it is first asked for."""

    encoders: Encoders
    split: EvalSplit
    params: Params

    @functools.cached_property
    def images(self) -> ImageEmbeds:
        return self.split.embed_images(self.encoders, self.params)

    @functools.cached_property
    def pairs(self) -> Pairs:
        """Of the main caption of each record."""
        images, split = self.images, self.split
        row_captions = [split.records[int(row)].captions[0] for row in images.rows]
        captions, places, right = relate(images.digests, row_captions)
        texts = embed_texts(self.encoders, self.params, split.tokenize, list(captions), split.text_batch_size)
        towers = None if self.encoders.pairs is None else Towers(take(images.tokens, places), texts.tokens)
        return Pairs(images.embeds[places], texts.embeds, captions, images.rows[places], right, towers)


def relate(digests: np.ndarray, row_captions: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Distinct captions, the first row of each distinct image, and the right (image, caption) pairs.

    Captions and images keep the order in which they first appear.

    Args:
        digests: (n,), equal values are identical images.
        row_captions: the caption of each of the n rows.
    """
    wordings: dict[str, str] = {}
    for caption in row_captions:
        wordings.setdefault(_plain(caption), caption)
    place_of_caption = {key: place for place, key in enumerate(wordings)}
    # `np.unique` sorts by digest; the order of the split is the one that a reader can follow.
    _, first_rows, image_of_row = np.unique(digests, return_index=True, return_inverse=True)
    order = np.argsort(first_rows)
    place_of_image = np.argsort(order)
    row_places = [place_of_caption[_plain(caption)] for caption in row_captions]
    right = np.unique(np.stack([place_of_image[image_of_row], row_places], axis=1), axis=0)
    return tuple(wordings.values()), first_rows[order], right


def _plain(caption: str) -> str:
    """What two captions have in common that are equal: case and outer spaces apart, as for `Record.id`."""
    return caption.strip().casefold()
