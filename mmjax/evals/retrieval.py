"""Retrieval: which caption belongs to this image, which image to this caption."""

from dataclasses import dataclass

from mmjax.evals.ranking import hit_rate, ranks
from mmjax.evals.seen import Pairs, Seen

KS = (1, 5, 10)


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

    def score(self, seen: Seen) -> dict[str, float]:
        return score(seen.pairs)


def score(pairs: Pairs) -> dict[str, float]:
    """Recalls and counts, with `/` between the levels of a name."""
    image_ranks = ranks(pairs.image_embeds, pairs.text_embeds, pairs.right)
    text_ranks = ranks(pairs.text_embeds, pairs.image_embeds, pairs.right[:, ::-1])
    recalls = {f"image_to_text/r@{k}": hit_rate(image_ranks, k) for k in KS}
    recalls |= {f"text_to_image/r@{k}": hit_rate(text_ranks, k) for k in KS}
    return recalls | {"num_candidates": float(len(pairs.captions)), "num_images": float(len(pairs.rows))}
