"""A fusion model on regions end to end: trained, evaluated and shown, from data that has no pixels."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mmjax import ending, evaluate, export, prove, train
from mmjax.config_file import load_config
from mmjax.errors import UserError
from mmjax.experiment import Experiment, from_values
from mmjax.report import __main__ as report
from mmjax.training.jsonl import read_lines
from tests.data import tiny_regions
from tests.interop.exported import proven_without
from tests.tolerances import LAYER

CONFIG = Path(__file__).parent / "tiny_regions_config.py"
APART = """
from tests import tiny_regions_config

def get_config():
    config = tiny_regions_config.get_config()
    config.model.embed_dim, config.objective.contrast, config.objective.match.negatives = 0, None, "random"
    return config
"""
"""A config of towers without a common space."""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, shared_compilations) -> Path:
    folder, place = tiny_regions.write(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("runs") / "run"
    assert ending.status(train.main, [f"--config={CONFIG}", f"--workdir={place}", f"--data=tfds:{folder}"]) == 0
    return place


def test_a_run_on_regions_from_its_data_to_its_report(workdir):
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


def test_a_run_without_a_common_space_is_scored_by_what_it_chooses(workdir, tmp_path, capsys):
    """While it trains, by `evaluate`, and in its report."""
    data = json.loads((workdir / "config.json").read_text())["data"]["source"]
    config = tmp_path / "apart.py"
    config.write_text(APART)
    assert ending.status(train.main, [f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--data={data}"]) == 0
    run, scores = tmp_path / "run", tmp_path / "scores.json"
    (line,) = read_lines(run / "evals.jsonl")
    assert line["test"].keys() == {"choice", "masked_words"}
    assert line["test"]["choice"]["num_candidates"] == 3
    assert ending.status(evaluate.main, [f"--workdir={run}", f"--json={scores}"]) == 0
    assert json.loads(scores.read_text())["splits"]["test"] == line["test"]
    assert "image to text, chosen" in capsys.readouterr().out
    assert ending.status(report.main, [f"--workdir={run}"]) == 0


def test_it_is_exported_and_proven_on_regions(workdir, tmp_path):
    """With the regions, boxes and masks of a sample, in a process that has no JAX."""
    pytest.importorskip("torch", reason="exports are proven in torch, which requirements-dev.txt installs")
    export.main([f"--workdir={workdir}", f"--out={tmp_path}", "--no-proof"])
    result = proven_without("jax", tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / prove.PARITY).read_text())["outputs"]
    assert {"text", "image", "answer_logits"} <= found.keys()
    assert max(output["max"] for output in found.values()) < 1e-4


def test_an_export_is_scored_as_the_run_is(workdir, tmp_path):
    """By all evaluations of a fusion model, on the data that it was trained on."""
    export.main([f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--no-proof"])
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    evaluate.main([f"--workdir={workdir}", f"--json={ours}"])
    evaluate.main([f"--model=hf:{tmp_path / 'out'}", f"--json={theirs}"])
    found, expected = (json.loads(path.read_text())["splits"]["test"] for path in (theirs, ours))
    assert expected.keys() == {"retrieval", "reranked", "masked_words"}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=LAYER), found, expected)


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
