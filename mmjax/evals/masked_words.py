"""Guessing masked words of a caption with the image beside it, and without."""

from dataclasses import dataclass

import jax
import numpy as np

from mmjax.evals.embed import ImageEmbeds, PairScorer, Tree
from mmjax.evals.pairs import Towers, encode_texts, pair_words, towers_of
from mmjax.evals.retrieval import RetrievalEval
from mmjax.evals.split import EvalSplit
from mmjax.types import Params


@dataclass(frozen=True)
class MaskedWordsEval:
    """How often the likeliest token is the one that was masked: `with_image`, `other_image` and `without_image`.

    Of each caption one token is masked, chosen by its place in the split, and guessed beside its own image, beside the
    image of another caption, the same for every model, and beside a stream of zeros in place of what the tower makes of
    an image. `gain` is what the own image has over the other one: how much of what is guessed was seen, and not known
    from the words around it. Only the main caption of a record is used, equal captions once.

    The other image misleads where a caption is one word, and a stream of zeros is nothing that the model was trained
    with; so neither is what a model that never had an image would reach.
    """

    scorer: PairScorer
    retrieval: RetrievalEval
    split: EvalSplit
    mask_id: int
    special_ids: tuple[int, ...]

    def run(self, params: Params) -> dict[str, float]:
        return self.score(params, self.split.embed_images(self.retrieval.encoders, params))

    def score(self, params: Params, images: ImageEmbeds) -> dict[str, float]:
        """The same for images that are embedded already."""
        pairs = self.retrieval.pair(params, images)
        text_ids, text_mask = self.split.tokenize(list(pairs.captions))
        places = masked_places(text_ids, text_mask, self.special_ids)
        rows = np.arange(len(text_ids))
        labels = text_ids[rows, places]
        masked = text_ids.copy()
        masked[rows, places] = self.mask_id
        images_tree = towers_of(self.scorer, params, self.split, pairs.rows, list(pairs.captions[:1])).images
        captions = encode_texts(self.scorer, params, masked, text_mask, self.split.text_batch_size)
        towers = Towers(images_tree, captions)
        own = first_image_of(pairs.right, len(rows))
        found = {
            "with_image": self._accuracy(params, towers, own, places, labels),
            "other_image": self._accuracy(params, towers, np.roll(own, len(own) // 2), places, labels),
            "without_image": self._accuracy(params, Towers(_blank(images_tree), captions), own, places, labels),
        }
        return found | {"gain": found["with_image"] - found["other_image"], "num_captions": float(len(rows))}

    def _accuracy(
        self, params: Params, towers: Towers, image_of: np.ndarray, places: np.ndarray, labels: np.ndarray
    ) -> float:
        asked = np.stack([image_of, np.arange(len(labels))], axis=1)
        words = pair_words(self.scorer, params, towers, asked, self.split.text_batch_size)
        return float(np.mean(words[np.arange(len(labels)), places] == labels))


def _blank(images: Tree) -> Tree:
    """The same with zeros for what is no mask, which take no memory."""
    return jax.tree.map(lambda x: x if x.dtype == bool else np.broadcast_to(np.zeros((), x.dtype), x.shape), images)


def masked_places(text_ids: np.ndarray, text_mask: np.ndarray, special_ids: tuple[int, ...]) -> np.ndarray:
    """int64 (n,): one place of each text that is neither padding nor special, the n-th text's n-th, counted round."""
    free = text_mask & ~np.isin(text_ids, special_ids)
    places = [np.flatnonzero(row) for row in free]
    return np.asarray([found[number % len(found)] if len(found) else 0 for number, found in enumerate(places)])


def first_image_of(right: np.ndarray, num_captions: int) -> np.ndarray:
    """int64 (num_captions,): the first image that each caption is right for, of (image, caption) pairs."""
    images = np.zeros(num_captions, np.int64)
    for image, caption in right[::-1]:
        images[caption] = image
    return images
