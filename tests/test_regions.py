"""A fusion model on regions end to end: trained, evaluated and shown, from data that has no pixels."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmjax import ending, evaluate, train
from mmjax.config_file import load_config
from mmjax.errors import UserError
from mmjax.experiment import Experiment, from_values
from mmjax.report import __main__ as report
from mmjax.training.jsonl import read_lines
from tests.data import tiny_regions

CONFIG = Path(__file__).parent / "tiny_regions_config.py"


def test_a_run_on_regions_from_its_data_to_its_report(tmp_path, shared_compilations):
    folder, workdir = tiny_regions.write(tmp_path / "data"), tmp_path / "run"
    assert ending.status(train.main, [f"--config={CONFIG}", f"--workdir={workdir}", f"--data=tfds:{folder}"]) == 0
    terms = {"contrast", "match", "tokens", "region_features", "region_classes", "region_divergence", "answers"}
    for line in read_lines(workdir / "metrics.jsonl"):
        assert np.isfinite([line[f"loss/{name}"] for name in terms]).all()
    scores = workdir / "evaluation.json"
    assert ending.status(evaluate.main, [f"--workdir={workdir}", f"--json={scores}"]) == 0
    found = json.loads(scores.read_text())["splits"]["test"]
    assert found["retrieval"]["num_images"] == 5
    assert found["reranked"]["num_candidates"] == 3
    assert found["masked_words"]["num_captions"] == 5
    assert ending.status(report.main, [f"--workdir={workdir}"]) == 0
    assert (workdir / "report.html").exists()
    assert not list(workdir.glob("gallery*"))


def experiment() -> Experiment:
    return from_values(load_config(str(CONFIG)))


def with_regions(**changes: Any) -> Experiment:
    known = experiment()
    return replace(known, data=replace(known.data, regions=replace(known.data.regions, **changes)))


def with_data(**changes: Any) -> Experiment:
    known = experiment()
    return replace(known, data=replace(known.data, **changes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_data(regions=None), "model.image looks at regions: set data.regions"),
        (lambda: with_data(answer_key=""), "objective reads answers: set data.answer_key"),
        (lambda: with_data(text_len=17), "context_len = 16: make it no longer than that"),
        (lambda: with_regions(feature_dim=7), "data.regions.feature_dim = 7 but model.image.feature_dim = 6"),
        (
            lambda: with_regions(targets=tiny_regions.CONFIG.targets[:1]),
            "objective reads region_classes_confidence: set a target 'classes_confidence' of data.regions",
        ),
        (
            lambda: with_regions(
                targets=(*tiny_regions.CONFIG.targets[:2], replace(tiny_regions.CONFIG.targets[2], num_classes=9))
            ),
            "region_probabilities of 9 numbers with a head of 4",
        ),
    ],
)
def test_data_and_model_that_do_not_fit_together_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        from_values(make().to_dict())


def test_pixels_and_regions_are_not_both_looked_at():
    albef = from_values(load_config(str(CONFIG.parents[1] / "configs" / "albef_emoji.py")))
    albef = replace(albef, data=replace(albef.data, source="tfds:DIR", regions=tiny_regions.CONFIG))
    with pytest.raises(UserError, match="stands in place of pixels, but model.image looks at pixels"):
        from_values(albef.to_dict())
