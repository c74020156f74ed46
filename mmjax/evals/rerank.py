"""Retrieval in two stages: the towers choose a few candidates, and a model that looks at both sides orders them."""

from dataclasses import dataclass

import numpy as np

from mmjax.errors import UserError
from mmjax.evals.pairs import pair_scores
from mmjax.evals.ranking import hit_rate
from mmjax.evals.retrieval import KS
from mmjax.evals.seen import Pairs, Seen

CHUNK = 2**24
"""Similarities held at once."""


@dataclass(frozen=True)
class RerankEval:
    """Recall at 1, 5 and 10 in both directions, of the `num_candidates` nearest by the towers, put in order by the
    match of both together (ALBEF, Li et al., 2021, section 5.1, with 128 or 256 candidates).

    A pair's score is `match_weight` times its log odds of a match, plus scale times its similarity. A head that was
    trained to tell right pairs from wrong ones drawn in proportion to exp(scale * similarity) knows by how much the
    odds differ from those of the towers: the product of both are the odds themselves, so 1 is the weight of a head that
    is as sure as it may be. One that is too sure of what it never saw wants less. The scale is 0 where wrong pairs were
    drawn at random, and the weight then changes nothing.

    The names of the numbers, what is distinct and what is right are those of `RetrievalEval`. `match_accuracy` is how
    often the match is above even odds for a right pair, and below for the nearest wrong one, mean of both: hard
    negatives, of which chance has 0.5. `num_passes` counts fusions: queries times candidates, each pair once.

    A recall above that of the towers says that the fusion sees what they do not; that of `num_candidates` is the most
    that it can reach.
    """

    num_candidates: int = 16
    match_weight: float = 1.0

    def __post_init__(self) -> None:
        check_num_candidates(self.num_candidates)
        if self.match_weight <= 0:
            raise UserError(f"evals.match_weight = {self.match_weight} must be above 0: 1 takes the match at its word")

    def score(self, seen: Seen) -> dict[str, float]:
        pairs, scorer = seen.pairs, seen.encoders.pairs
        assert scorer is not None, "of models that have a fusion"
        assert pairs.towers is not None
        near_texts = nearest(pairs.image_embeds, pairs.text_embeds, self.num_candidates)
        near_images = nearest(pairs.text_embeds, pairs.image_embeds, self.num_candidates)
        negatives = hard_negatives(pairs)
        asked = np.concatenate([pairs_of(near_texts), pairs_of(near_images)[:, ::-1], negatives, pairs.right])
        distinct, places = np.unique(asked, axis=0, return_inverse=True)
        odds = pair_scores(scorer, seen.params, pairs.towers, distinct, seen.split.text_batch_size)
        similarity = np.sum(pairs.image_embeds[distinct[:, 0]] * pairs.text_embeds[distinct[:, 1]], axis=1)
        scores = self.match_weight * odds + float(scorer.scale(seen.params)) * similarity
        cuts = np.cumsum([near_texts.size, near_images.size, len(negatives)])
        by_text, by_image, _, _ = np.split(scores[places.reshape(-1)], cuts)
        _, _, wrong, right = np.split(odds[places.reshape(-1)], cuts)
        found = recalls("image_to_text", near_texts, by_text, pairs.right)
        found |= recalls("text_to_image", near_images, by_image, pairs.right[:, ::-1])
        accuracy = (np.mean(right > 0) + np.mean(wrong < 0)) / 2
        counts = {"num_candidates": float(near_texts.shape[1]), "num_passes": float(len(distinct))}
        return found | {"match_accuracy": float(accuracy)} | counts


def nearest(queries: np.ndarray, candidates: np.ndarray, num: int) -> np.ndarray:
    """int64 (q, num): the candidates of largest similarity for each query, the best first, in bounded memory."""
    num, rows = min(num, len(candidates)), max(1, CHUNK // max(1, len(candidates)))
    chunks = (queries[start : start + rows] @ candidates.T for start in range(0, len(queries), rows))
    return np.concatenate([np.argsort(-chunk, axis=1, kind="stable")[:, :num] for chunk in chunks])


def hard_negatives(pairs: Pairs) -> np.ndarray:
    """int64 (n, 2): each image with the caption that is nearest to it of those that are wrong."""
    right = set(map(tuple, pairs.right.tolist()))
    most = int(np.bincount(pairs.right[:, 0]).max()) + 1
    found = []
    for image, texts in enumerate(nearest(pairs.image_embeds, pairs.text_embeds, most)):
        wrong = [int(text) for text in texts if (image, int(text)) not in right]
        found += [(image, wrong[0])] if wrong else []
    return np.asarray(found, np.int64).reshape(-1, 2)


def reranked(near: np.ndarray, scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """int64 (q,): how many wrong candidates stand before the best right one; the number of candidates where none is.

    Ties count against the model, as in `ranking.ranks`.

    Args:
        near: (q, k) candidates of each query.
        scores: (q * k,) of them.
        right: (r, 2) the (query, candidate) pairs that are right.
    """
    scores = scores.reshape(near.shape)
    known = set(map(tuple, right.tolist()))
    is_right = np.asarray([[(query, int(c)) in known for c in row] for query, row in enumerate(near)], bool)
    best = np.where(is_right, scores, -np.inf).max(axis=1, keepdims=True)
    # "not below" rather than "above", so that NaN does not score.
    before = np.sum(~(scores < best) & ~is_right, axis=1)
    return np.where(is_right.any(axis=1), before, near.shape[1])


def check_num_candidates(num_candidates: int) -> None:
    """Refuses a choice among none."""
    if num_candidates < 1:
        raise UserError(f"evals.num_candidates = {num_candidates} must be at least 1: the papers have 16 to 256")


def recalls(direction: str, near: np.ndarray, scores: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """By name; of fewer candidates than ten there are not all of them."""
    ranks = reranked(near, scores, right)
    return {f"{direction}/r@{k}": hit_rate(ranks, k) for k in KS if k <= near.shape[1]}


def pairs_of(near: np.ndarray) -> np.ndarray:
    """(query, candidate) of every place."""
    queries = np.repeat(np.arange(len(near)), near.shape[1])
    return np.stack([queries, near.reshape(-1)], axis=1)
