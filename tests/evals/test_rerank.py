"""Reranking and masked words against what a few rows give by hand."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.evals.embed import Encoders, PairScorer
from mmjax.evals.masked_words import MaskedWordsEval, first_image_of, masked_places
from mmjax.evals.pairs import Towers, pair_scores
from mmjax.evals.rerank import RerankEval, nearest, reranked
from mmjax.evals.retrieval import RetrievalEval
from mmjax.evals.seen import Seen
from mmjax.evals.suite import run_suite
from mmjax.types import Array, Params
from tests.evals.eval_fakes import FakeRecord, degrees_of, encoders, mesh_of, on_circle, split_of

PARAMS: Params = {"turn": jnp.float32(1), "scale": jnp.float32(0)}
MASK, SPECIAL = 999, (0, 999)
WORDS = [FakeRecord(10, ("10",)), FakeRecord(20, ("20",)), FakeRecord(30, ("31",))]


def _ids(params: Params, text_ids: Array, text_mask: Array) -> Array:
    return text_ids.astype(jnp.float32)


def _match(params: Params, text: Array, image: Array) -> Array:
    """Above even odds where the caption lies within 10 degrees of 40 behind the image."""
    return 10 - jnp.abs(text[:, 0] - image - 40)


def _words(params: Params, text: Array, image: Array) -> Array:
    """It guesses what it sees, and 20 where that is nothing."""
    guess = jnp.where(image == 0, 20, image)
    return jnp.broadcast_to(guess[:, None], text.shape).astype(jnp.int32)


def scorer() -> PairScorer:
    def text_embed(params: Params, ids: Array) -> Array:
        return on_circle(params, ids[:, 0])

    def scale(params: Params) -> Array:
        return params["scale"]

    functions = (degrees_of, _ids, on_circle, text_embed, _match, _words, scale)
    return PairScorer(*map(jax.jit, functions), mesh=mesh_of())


def _never(*_: Any) -> Array:
    raise AssertionError("a fusion gives the embeddings, from what it reads itself")


def fusion() -> Encoders:
    return encoders(mesh_of(), scorer())


def evaluation(records: list[FakeRecord], num_candidates: int) -> dict[str, float]:
    return RerankEval(num_candidates).score(Seen(fusion(), split_of(records, batch_size=2), PARAMS))


def test_three_examples_by_hand() -> None:
    """Captions lie 40 degrees behind their images, at 40, 130 and 220; images at 0, 90 and 180.

    The towers, which take what is nearest, answer 0 with 40, 90 with 130 and 180 with 220: all right, as 130 is 50 from
    180. For the captions, 40 is nearer to 0 than to 90, and so on. The match agrees. A second caption at 85 for the
    image at 45 is nearest to the image at 90 (5 away), and the towers are wrong; the match puts it right.
    """
    records = [FakeRecord(0, ("40",)), FakeRecord(90, ("130",)), FakeRecord(180, ("220",)), FakeRecord(45, ("85",))]
    found = evaluation(records, num_candidates=2)
    split = split_of(records, batch_size=2)
    towers = RetrievalEval().score(Seen(encoders(mesh_of()), split, PARAMS))
    assert towers["text_to_image/r@1"] < 1.0
    assert found["text_to_image/r@1"] == 1.0
    # 45 is 5 from 40 and 40 from its own 85, which is second; 90 is 5 from 85 and 40 from its own 130.
    assert towers["image_to_text/r@1"] == 0.5
    assert found["image_to_text/r@1"] == 1.0
    assert found["match_accuracy"] == 1.0
    assert found["num_candidates"] == 2
    assert found["num_passes"] <= 4 * 2 * 2 + 8


def test_similarity_is_added_times_the_scale() -> None:
    """With a scale that drowns the odds the order is that of the towers."""
    records = [FakeRecord(0, ("40",)), FakeRecord(90, ("130",)), FakeRecord(180, ("220",)), FakeRecord(45, ("85",))]
    split = split_of(records, batch_size=2)
    towers = RetrievalEval().score(Seen(encoders(mesh_of()), split, PARAMS))
    found = RerankEval(2).score(Seen(fusion(), split, {**PARAMS, "scale": jnp.float32(1e6)}))
    for direction in ("image_to_text", "text_to_image"):
        assert found[f"{direction}/r@1"] == towers[f"{direction}/r@1"]
    assert found["match_accuracy"] == 1.0


@pytest.mark.parametrize(("weight", "as_the_towers"), [(1e-6, True), (1e6, False)])
def test_the_match_counts_by_its_weight(weight: float, as_the_towers: bool) -> None:
    """Beside similarities times 1 the order is that of the towers where the weight is next to nothing."""
    records = [FakeRecord(0, ("40",)), FakeRecord(90, ("130",)), FakeRecord(180, ("220",)), FakeRecord(45, ("85",))]
    split = split_of(records, batch_size=2)
    towers = RetrievalEval().score(Seen(encoders(mesh_of()), split, PARAMS))
    found = RerankEval(2, weight).score(Seen(fusion(), split, {**PARAMS, "scale": jnp.float32(1)}))
    for direction in ("image_to_text", "text_to_image"):
        assert found[f"{direction}/r@1"] == (towers[f"{direction}/r@1"] if as_the_towers else 1.0)


def test_a_weight_that_leaves_the_match_out_is_refused() -> None:
    with pytest.raises(UserError, match="match_weight"):
        RerankEval(2, 0.0)


def test_towers_run_once_for_all_evaluations() -> None:
    """Images in two batches, captions in two and, with a word masked each, in two more; and no tower beside them."""
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Array]) -> Callable[..., Array]:
        def call(*arguments: Any) -> Array:
            calls[name] += 1
            return function(*arguments)

        return call

    split, pairs = split_of(WORDS, batch_size=2), scorer()
    pairs = replace(pairs, image=counted("image", pairs.image), text=counted("text", pairs.text))
    towers = Encoders(_never, _never, pairs.mesh, pairs)
    evals = {
        "retrieval": RetrievalEval(),
        "reranked": RerankEval(2),
        "masked_words": MaskedWordsEval(MASK, SPECIAL),
    }
    results = run_suite(evals, Seen(towers, split, PARAMS))
    assert calls == {"image": 2, "text": 4}
    assert results == {name: evaluation.score(Seen(towers, split, PARAMS)) for name, evaluation in evals.items()}


def test_rows_that_cannot_be_read_and_images_seen_before_change_nothing() -> None:
    """What the fusion reads of an image is that image's, whatever stands before it in the split."""
    records = [FakeRecord(0, ("40",)), FakeRecord(90, ("130",)), FakeRecord(45, ("85",)), FakeRecord(180, ("220",))]
    unreadable, again = FakeRecord(270, ("7",), weight=0.0), FakeRecord(0, ("40",))
    others = [records[0], unreadable, again, *records[1:]]
    assert evaluation(others, num_candidates=2) == evaluation(records, num_candidates=2)
    words = [
        MaskedWordsEval(MASK, SPECIAL).score(Seen(fusion(), split_of(each, batch_size=2), PARAMS))
        for each in (WORDS, [WORDS[0], unreadable, WORDS[0], *WORDS[1:]])
    ]
    assert words[0] == words[1]


def test_with_one_candidate_nothing_can_change() -> None:
    records = [FakeRecord(0, ("40",)), FakeRecord(45, ("85",))]
    found = evaluation(records, num_candidates=1)
    towers = RetrievalEval().score(Seen(encoders(mesh_of()), split_of(records, batch_size=2), PARAMS))
    assert found["image_to_text/r@1"] == towers["image_to_text/r@1"] == 0.5
    assert "image_to_text/r@5" not in found


def test_ranks_among_candidates() -> None:
    near = np.asarray([[0, 1], [1, 2], [2, 0]])
    right = np.asarray([[0, 1], [1, 0], [2, 2], [2, 0]])
    assert reranked(near, np.asarray([0.1, 0.2, 5.0, 4.0, 1.0, 1.0]), right).tolist() == [0, 2, 0]
    # A tie counts against the model, and so does what is not a number.
    assert reranked(near, np.asarray([0.2, 0.2, 5.0, 4.0, 1.0, 1.0]), right).tolist() == [1, 2, 0]
    assert reranked(near, np.full(6, np.nan), right).tolist() == [1, 2, 0]


def test_nearest_are_the_best_first() -> None:
    candidates = np.asarray([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert nearest(candidates, candidates, 2).tolist() == [[0, 2], [1, 2], [2, 1]]


def test_pairs_are_scored_in_their_order_whatever_the_batch() -> None:
    towers = Towers(np.asarray([0.0, 90.0, 45.0], np.float32), np.asarray([[40.0], [130.0]], np.float32))
    pairs = np.asarray([[2, 1], [0, 0], [1, 1], [0, 1], [2, 0]])
    expected = [10 - 45, 10, 10, 10 - 90, 10 - 45]
    for batch_size in (2, 5, 7):
        assert pair_scores(scorer(), PARAMS, towers, pairs, batch_size).tolist() == expected


def test_masked_words_by_hand() -> None:
    """It guesses the angle of the image that it sees, which is the caption's word for two of three."""
    split = split_of(WORDS, batch_size=2)
    found = MaskedWordsEval(MASK, SPECIAL).score(Seen(fusion(), split, PARAMS))
    assert found["with_image"] == 2 / 3
    assert found["other_image"] == 0.0
    assert found["without_image"] == 1 / 3
    assert found["gain"] == 2 / 3
    assert found["num_captions"] == 3


def test_what_is_masked_is_a_word() -> None:
    text_ids = np.asarray([[0, 5, 6, 999], [7, 8, 9, 0], [0, 3, 0, 0]])
    places = masked_places(text_ids, text_ids > 0, SPECIAL)
    assert places.tolist() == [1, 1, 1]
    assert first_image_of(np.asarray([[2, 0], [1, 1], [3, 0]]), 2).tolist() == [2, 1]
