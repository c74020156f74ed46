"""Choosing the right partner out of a few by the match alone, for models whose towers have no common space."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmjax.evals.pairs import pair_scores
from mmjax.evals.rerank import check_num_candidates, pairs_of, recalls
from mmjax.evals.seen import Seen


@dataclass(frozen=True)
class ChoiceEval:
    """Recall at 1, 5 and 10 in both directions, of a right candidate among `num_candidates`, put in order by the log
    odds that both belong together. Chance has k / `num_candidates`.

    The others are wrong ones that lie evenly over the split, the same for every model: they were not chosen for being
    near, as those of `RerankEval` were, so both do not compare. `match_accuracy` is how often the match is above even
    odds for a right pair, and below for one of the wrong ones, mean of both: of that chance has 0.5. What is distinct
    and what is right is as of `RetrievalEval`; `num_passes` counts fusions, each pair once.
    """

    num_candidates: int = 16

    def __post_init__(self) -> None:
        check_num_candidates(self.num_candidates)

    def score(self, seen: Seen) -> dict[str, float]:
        pairs, scorer = seen.pairs, seen.encoders.pairs
        assert scorer is not None, "of models that have a fusion"
        assert pairs.towers is not None
        texts = choices(pairs.right, len(pairs.captions), self.num_candidates)
        images = choices(pairs.right[:, ::-1], len(pairs.rows), self.num_candidates)
        asked = np.concatenate([pairs_of(texts), pairs_of(images)[:, ::-1]])
        distinct, places = np.unique(asked, axis=0, return_inverse=True)
        odds = pair_scores(scorer, seen.params, pairs.towers, distinct, seen.split.text_batch_size)
        by_text, by_image = np.split(odds[places.reshape(-1)], [texts.size])
        found = recalls("image_to_text", texts, by_text, pairs.right)
        found |= recalls("text_to_image", images, by_image, pairs.right[:, ::-1])
        counts = {"num_candidates": float(texts.shape[1]), "num_images": float(images.shape[1])}
        counts |= {"num_passes": float(len(distinct))}
        return found | {"match_accuracy": _accuracy(by_text.reshape(texts.shape))} | counts


def choices(right: np.ndarray, num_candidates: int, most: int) -> np.ndarray:
    """int64 (q, k): of each query its first right candidate and k - 1 wrong ones, k at most `most`.

    Args:
        right: int (r, 2), the (query, candidate) pairs that are right, at least one of each query.
        num_candidates: how many there are in all.
        most: how many of them each query chooses from, where there are so many that are wrong.
    """
    known: dict[int, list[int]] = {}
    for query, candidate in right.tolist():
        known.setdefault(query, []).append(candidate)
    num_wrong = min(most - 1, num_candidates - max(map(len, known.values())))
    found = []
    for query in range(len(known)):
        of_query = known[query]
        wrong = (place for place in _others(of_query[0], num_candidates, most) if place not in of_query)
        found.append([of_query[0], *itertools.islice(wrong, num_wrong)])
    return np.asarray(found, np.int64)


def _others(own: int, total: int, num: int) -> Iterator[int]:
    """All places but `own`, those first that lie evenly over all of them, about `num` in a round."""
    step = max(1, total // num)
    rounds = (range(first, total, step) for first in range(step, 0, -1))
    return ((own + distance) % total for distance in itertools.chain.from_iterable(rounds))


def _accuracy(odds: np.ndarray) -> float:
    """Of odds (q, k), the first of which are of right pairs; of the others the first is judged, where there are any."""
    judged = [odds[:, 0] > 0, *(odds[:, 1:2] < 0).T]
    return float(np.mean([np.mean(answers) for answers in judged]))
