"""Guessing masked words of a caption with the image beside it, and without."""

from dataclasses import dataclass

import jax
import numpy as np

from mmjax.evals.embed import Tree
from mmjax.evals.pairs import Towers, encode_texts, pair_words
from mmjax.evals.seen import Seen


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

    mask_id: int
    special_ids: tuple[int, ...]

    def score(self, seen: Seen) -> dict[str, float]:
        pairs, split, scorer, params = seen.pairs, seen.split, seen.encoders.pairs, seen.params
        assert scorer is not None, "of models that have a fusion"
        assert pairs.towers is not None
        text_ids, text_mask = split.tokenize(list(pairs.captions))
        places = masked_places(text_ids, text_mask, self.special_ids)
        rows = np.arange(len(text_ids))
        labels = text_ids[rows, places]
        masked = text_ids.copy()
        masked[rows, places] = self.mask_id
        captions = encode_texts(scorer, params, masked, text_mask, split.text_batch_size)
        towers, blank = Towers(pairs.towers.images, captions), Towers(_blank(pairs.towers.images), captions)
        own = first_image_of(pairs.right, len(rows))

        def accuracy(towers: Towers, image_of: np.ndarray) -> float:
            asked = np.stack([image_of, rows], axis=1)
            words = pair_words(scorer, params, towers, asked, split.text_batch_size)
            return float(np.mean(words[rows, places] == labels))

        found = {
            "with_image": accuracy(towers, own),
            "other_image": accuracy(towers, np.roll(own, len(own) // 2)),
            "without_image": accuracy(blank, own),
        }
        return found | {"gain": found["with_image"] - found["other_image"], "num_captions": float(len(rows))}


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
