"""Retrieval: which caption belongs to this image, which image to this caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmjax.evals.embed import Encoders, ImageEmbeds, embed_texts
from mmjax.evals.ranking import hit_rate, ranks
from mmjax.evals.split import EvalSplit
from mmjax.types import Params

KS = (1, 5, 10)


class Pairs(NamedTuple):
    """Distinct images and distinct captions of a split, embedded, and which of them belong together."""

    image_embeds: np.ndarray
    """float32 (n, e)."""
    text_embeds: np.ndarray
    """float32 (c, e)."""
    captions: tuple[str, ...]
    rows: np.ndarray
    """int64 (n,): a row of the split that shows each image."""
    right: np.ndarray
    """int64 (r, 2): (image, caption) pairs that are right."""


@dataclass(frozen=True)
class RetrievalEval:
    """Recall at 1, 5 and 10 in both directions, as fractions.

    `image_to_text/r@k` is the share of distinct images with a caption of theirs among the k nearest of all distinct
    captions of the split (`num_candidates`); `text_to_image/r@k` is the share of distinct captions with an image of
    theirs among the k nearest of all distinct images (`num_images`). Only the main caption of a record is used.
    Equal captions (case apart) are one candidate, and every image that carries one is right for it; images with
    identical pixels are one image, and any caption of theirs is right. Ties count against the model (`ranking.ranks`).

    The number depends on how many candidates there are, so two splits, or two sizes of one, do not compare. It does not
    say that a wrong answer is bad: a caption that fits the picture as well but is worded otherwise counts as wrong.
    """

    encoders: Encoders
    split: EvalSplit

    def run(self, params: Params) -> dict[str, float]:
        return self.score(params, self.split.embed_images(self.encoders, params))

    def score(self, params: Params, images: ImageEmbeds) -> dict[str, float]:
        """The same for images that are embedded already."""
        return score(self.pair(params, images))

    def pair(self, params: Params, images: ImageEmbeds) -> Pairs:
        """What is scored, for those who want to look at the answers themselves."""
        row_captions = [self.split.records[int(row)].captions[0] for row in images.rows]
        captions, image_index, right = relate(images.digests, row_captions)
        texts = embed_texts(self.encoders, params, self.split.tokenize, list(captions), self.split.text_batch_size)
        return Pairs(images.embeds[image_index], texts, captions, images.rows[image_index], right)


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


def score(pairs: Pairs) -> dict[str, float]:
    """Recalls and counts, with `/` between the levels of a name."""
    image_ranks = ranks(pairs.image_embeds, pairs.text_embeds, pairs.right)
    text_ranks = ranks(pairs.text_embeds, pairs.image_embeds, pairs.right[:, ::-1])
    recalls = {f"image_to_text/r@{k}": hit_rate(image_ranks, k) for k in KS}
    recalls |= {f"text_to_image/r@{k}": hit_rate(text_ranks, k) for k in KS}
    return recalls | {"num_candidates": float(len(pairs.captions)), "num_images": float(len(pairs.rows))}
