"""What the model answers: captions with their five nearest images, and images with their five nearest captions.

The examples are a fair cross-section, chosen by rule: all queries are sorted by the rank of their right answer, and one
is taken from the middle of each of equal parts, so that failures are shown in the share in which they occur.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmjax.evals.ranking import ranks
from mmjax.evals.seen import Pairs

GALLERY_FILE = "gallery.npz"
NUM_ANSWERS = 5
NUM_EXAMPLES = 8


class Answers(NamedTuple):
    """Queries and their nearest candidates, best first."""

    queries: np.ndarray
    """int64 (q,): places among the captions or images of the gallery's pairs."""
    answers: np.ndarray
    """int64 (q, 5): fewer columns where there are fewer candidates."""
    is_right: np.ndarray
    """bool (q, 5)."""
    ranks: np.ndarray
    """int64 (q,): wrong candidates before the first right one; 0 is right at once."""


class Gallery(NamedTuple):
    """Everything needed to show answers, as plain arrays; captions are unicode arrays."""

    captions: np.ndarray
    """str (q,): the captions that are looked up."""
    images_found: np.ndarray
    """uint8 (q, 5, y, x, 3)."""
    captions_of_found: np.ndarray
    """str (q, 5): a right caption of each image found."""
    found_is_right: np.ndarray
    """bool (q, 5)."""
    caption_ranks: np.ndarray
    """int64 (q,)."""
    images: np.ndarray
    """uint8 (q, y, x, 3): the images that are looked up."""
    captions_of_images: np.ndarray
    """str (q,): a right caption of each."""
    captions_found: np.ndarray
    """str (q, 5)."""
    captions_found_right: np.ndarray
    """bool (q, 5)."""
    image_ranks: np.ndarray
    """int64 (q,)."""


def make_gallery(pairs: Pairs, image_of: Callable[[int], np.ndarray], num_examples: int = NUM_EXAMPLES) -> Gallery:
    """The gallery of a scored split.

    Args:
        pairs: from `RetrievalEval.pair`.
        image_of: the pixels, uint8 (y, x, 3), of a row of the split.
        num_examples: queries a direction.
    """
    by_text = answer(pairs.text_embeds, pairs.image_embeds, pairs.right[:, ::-1], num_examples)
    by_image = answer(pairs.image_embeds, pairs.text_embeds, pairs.right, num_examples)
    captions = np.array(pairs.captions)
    caption_of_image = captions[_first_right(pairs)]
    pixels = {place: image_of(int(pairs.rows[place])) for place in {*by_text.answers.flat, *by_image.queries.flat}}
    return Gallery(
        captions=captions[by_text.queries],
        images_found=np.array([[pixels[place] for place in found] for found in by_text.answers]),
        captions_of_found=caption_of_image[by_text.answers],
        found_is_right=by_text.is_right,
        caption_ranks=by_text.ranks,
        images=np.array([pixels[place] for place in by_image.queries]),
        captions_of_images=caption_of_image[by_image.queries],
        captions_found=captions[by_image.answers],
        captions_found_right=by_image.is_right,
        image_ranks=by_image.ranks,
    )


def answer(queries: np.ndarray, candidates: np.ndarray, right: np.ndarray, num_examples: int) -> Answers:
    """The nearest candidates of a cross-section of the queries; arrays as for `ranking.ranks`."""
    all_ranks = ranks(queries, candidates, right)
    chosen = cross_section(all_ranks, num_examples)
    nearest = np.argsort(-(queries[chosen] @ candidates.T), axis=1, kind="stable")[:, :NUM_ANSWERS]
    pairs = {(int(query), int(candidate)) for query, candidate in right}
    is_right = [
        [(int(query), int(found)) in pairs for found in row] for query, row in zip(chosen, nearest, strict=True)
    ]
    return Answers(chosen, nearest, np.array(is_right), all_ranks[chosen])


def cross_section(all_ranks: np.ndarray, num_examples: int) -> np.ndarray:
    """Places of `num_examples` queries, from the best to the worst answered; the same for the same ranks."""
    count = min(num_examples, len(all_ranks))
    # Neighbours in a data set are alike (flags beside flags), so equal ranks are taken in a mixed order.
    mixed = np.random.default_rng(0).permutation(len(all_ranks))
    by_rank = mixed[np.argsort(all_ranks[mixed], kind="stable")]
    return by_rank[((np.arange(count) + 0.5) * len(all_ranks) / max(1, count)).astype(int)]


def save_gallery(workdir: Path, gallery: Gallery) -> None:
    np.savez_compressed(workdir / GALLERY_FILE, **gallery._asdict())


def load_gallery(workdir: Path) -> Gallery | None:
    """The gallery of a run, None where none was saved."""
    path = workdir / GALLERY_FILE
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return Gallery(**arrays)


def _first_right(pairs: Pairs) -> np.ndarray:
    """(n,): the first right caption of each image; `right` is sorted by image and names each."""
    _, first = np.unique(pairs.right[:, 0], return_index=True)
    return pairs.right[first, 1]
