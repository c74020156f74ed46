"""Choosing among a few by the match against what a few rows give by hand."""

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.evals.choice import ChoiceEval, choices
from mmjax.evals.embed import Encoders
from mmjax.evals.seen import Seen
from tests.evals.eval_fakes import FakeRecord, encoders, mesh_of, split_of
from tests.evals.test_rerank import PARAMS, scorer

RECORDS = [FakeRecord(0, ("40",)), FakeRecord(90, ("130",)), FakeRecord(180, ("220",)), FakeRecord(45, ("130",))]


def score(num_candidates: int, records: list[FakeRecord] = RECORDS) -> dict[str, float]:
    return ChoiceEval(num_candidates).score(Seen(encoders(mesh_of(), scorer()), split_of(records, 2), PARAMS))


def test_four_examples_by_hand() -> None:
    """The match has 10 - |caption - image - 40|: 10 for captions that lie 40 degrees behind their image.

    The image at 45 is called 130, and is 45 off; 40 is as far from it, and stands before where it is asked. Images 0,
    90 and 180 have their own caption 0 degrees off. Captions 40 and 220 find their image; of 130 both 45 and 90 are
    right, and 90 is 0 off.
    """
    found = score(3)
    assert found["image_to_text/r@1"] == 3 / 4
    assert found["text_to_image/r@1"] == 1.0
    # All four images with all three captions.
    assert (found["num_candidates"], found["num_images"], found["num_passes"]) == (3, 3, 12)
    # Odds of right pairs are 10, 10, 10 and -35; of each image and the caption after its own all are below.
    assert found["match_accuracy"] == (3 / 4 + 1) / 2
    assert "image_to_text/r@5" not in found


def test_embeddings_are_not_asked_for() -> None:
    def none(*_: object) -> np.ndarray:
        raise AssertionError("the towers of a fusion model run through the fusion")

    seen = Seen(Encoders(none, none, mesh_of(), scorer()), split_of(RECORDS, 2), PARAMS)
    assert ChoiceEval(3).score(seen) == score(3)


def test_others_are_wrong_and_lie_over_the_whole_split() -> None:
    right = np.asarray([[query, query] for query in range(100)] + [[0, 25], [0, 50]])
    found = choices(right, 100, 5)
    assert found.shape == (100, 5)
    assert found[0].tolist() == [0, 20, 40, 60, 80]
    assert found[70].tolist() == [70, 90, 10, 30, 50]
    # 25 and 50 are right for the first as well.
    assert choices(right, 100, 4)[0].tolist() == [0, 75, 24, 49]
    every = choices(right, 100, 1000)
    assert every.shape == (100, 98)
    assert {len(set(row)) for row in every.tolist()} == {98}
    assert not {25, 50} & set(every[0].tolist())


def test_one_candidate_is_no_choice() -> None:
    found = score(1)
    assert found["image_to_text/r@1"] == 1.0
    assert found["match_accuracy"] == 3 / 4
    with pytest.raises(UserError, match="must be at least 1"):
        ChoiceEval(0)
