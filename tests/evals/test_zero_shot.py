from dataclasses import replace

import jax.numpy as jnp
import pytest

from mmjax.errors import UserError
from mmjax.evals.retrieval import RetrievalEval
from mmjax.evals.seen import Seen
from mmjax.evals.suite import as_json, run_suite
from mmjax.evals.zero_shot import ZeroShotConfig, ZeroShotEval
from tests.evals.eval_fakes import FakeRecord, encoders, mesh_of, split_of

PARAMS = {"turn": jnp.float32(1)}
CONFIG = ZeroShotConfig(templates=("{}", "a picture of {}"))
# The class "big-cat" lies at 10 degrees, the mean of its prompts at 0 and 20; "dog" at 90.
ANGLES = {"big cat": 360, "a picture of big cat": 20, "dog": 80, "a picture of dog": 100}
RECORDS = [
    FakeRecord(0, ("1",), "big-cat"),
    FakeRecord(49, ("2",), "big-cat"),
    FakeRecord(51, ("3",), "big-cat"),
    FakeRecord(70, ("4",), "dog"),
    FakeRecord(0, ("5",)),
]


def test_four_examples_by_hand() -> None:
    """The border between the classes is at 50 degrees, so that of the big cats the one at 51 is wrong."""
    result = ZeroShotEval(CONFIG).score(Seen(encoders(mesh_of()), split_of(RECORDS, 2, ANGLES), PARAMS))
    assert result["top1"] == 0.75
    assert result["top5"] == 1.0
    assert result["mean_per_class"] == pytest.approx((2 / 3 + 1) / 2)
    assert (result["num_classes"], result["num_images"]) == (2, 4)


def test_a_split_without_classes_is_one_clear_error() -> None:
    with pytest.raises(UserError, match="needs classes"):
        ZeroShotEval(CONFIG).score(Seen(encoders(mesh_of()), split_of(RECORDS[-1:], 2), PARAMS))


def test_a_template_without_its_place_is_one_clear_error() -> None:
    with pytest.raises(UserError, match="a picture"):
        ZeroShotConfig(templates=("{}", "a picture"))


def test_a_suite_embeds_the_images_once_and_nests_its_results() -> None:
    towers, split = encoders(mesh_of()), split_of(RECORDS, 2, ANGLES)
    evals = {"retrieval": RetrievalEval(), "zero_shot": ZeroShotEval(CONFIG)}
    passes: list[None] = []
    counted = replace(split, batches=lambda: passes.append(None) or split.batches())
    results = run_suite(evals, Seen(towers, counted, PARAMS))
    assert len(passes) == 1
    assert results == {name: evaluation.score(Seen(towers, split, PARAMS)) for name, evaluation in evals.items()}
    nested = as_json(results)
    assert nested["retrieval"]["image_to_text"]["r@1"] == results["retrieval"]["image_to_text/r@1"]
    assert nested["retrieval"]["num_candidates"] == 5
    assert nested["zero_shot"]["top1"] == 0.75
