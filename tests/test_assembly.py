"""Which splits are used of data that the command line names."""

from dataclasses import replace
from pathlib import Path

import pytest

from mmjax import assembly
from mmjax.config_file import load_config
from mmjax.evals.embed import Encoders
from mmjax.experiment import from_values
from mmjax.parallel.mesh import make_mesh

CONFIG = Path(__file__).parents[1] / "configs" / "emoji_siglip.py"


@pytest.mark.parametrize(
    ("known", "training", "held_out"),
    [
        (("train", "unseen_style", "test"), "train", ("unseen_style",)),
        (("train", "validation", "test"), "train", ("test",)),
        (("photos",), "photos", ()),
    ],
    ids=["those of the config", "what is held out", "nothing held out"],
)
def test_splits_of_other_data(monkeypatch, known, training, held_out):
    monkeypatch.setattr(assembly, "list_splits", lambda source: known)
    changed = assembly.with_source(from_values(load_config(str(CONFIG))), "imagefolder:DIR")
    assert (changed.data.source, changed.data.split) == ("imagefolder:DIR", training)
    assert changed.evals.splits == held_out
    assert changed.data.captions.evaluation == "main"


@pytest.mark.parametrize(("evaluation", "caption"), [("main", "twelve o’clock"), ("all", "twelve o’clock 12 ")])
def test_evaluations_show_the_captions_that_the_config_asks_for(tmp_path, evaluation, caption):
    experiment = from_values(load_config(str(CONFIG)))
    data = replace(experiment.data, captions=replace(experiment.data.captions, evaluation=evaluation))
    evals = replace(experiment.evals, splits=("unseen_concept_noto",), zero_shot=None)
    experiment = replace(experiment, data=data, evals=evals)
    encoders = Encoders(None, None, make_mesh(experiment.mesh))
    evaluation = assembly.Evaluation(experiment, assembly.load_tokenizer(experiment), encoders, tmp_path)
    shown = {record.captions[0] for record in evaluation.splits["unseen_concept_noto"].split.records}
    assert any(text.startswith(caption) for text in shown)
    assert ("twelve o’clock" in shown) == (caption == "twelve o’clock")
