"""Which splits are used of data that the command line names."""

from dataclasses import replace
from pathlib import Path

import pytest

from mmjax import assembly, evaluate
from mmjax.config_file import load_config
from mmjax.errors import UserError
from mmjax.evals.embed import Encoders, PairScorer
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


FUSION = CONFIG.with_name("albef_emoji.py")


@pytest.mark.parametrize(
    ("heads", "embed_dim", "expected"),
    [
        ({}, 16, {"retrieval", "reranked", "masked_words"}),
        ({"can_match": False}, 16, {"retrieval", "masked_words"}),
        ({"can_guess": False}, 16, {"retrieval", "reranked"}),
        ({}, 0, {"choice", "masked_words"}),
        ({"can_match": False}, 0, {"masked_words"}),
    ],
    ids=["all", "no match", "no words", "no common space", "words alone"],
)
def test_a_fusion_model_is_evaluated_by_what_it_has_heads_for(tmp_path, heads, embed_dim, expected):
    experiment = from_values(load_config(str(FUSION)))
    experiment = replace(experiment, model=replace(experiment.model, embed_dim=embed_dim))
    experiment = replace(experiment, evals=replace(experiment.evals, splits=("unseen_concept_noto",)))
    mesh = make_mesh(experiment.mesh)
    encoders = Encoders(None, None, mesh, PairScorer(*[None] * 7, mesh, **heads))
    evaluation = assembly.Evaluation(experiment, assembly.load_tokenizer(experiment), encoders, tmp_path)
    assert set(evaluation.splits["unseen_concept_noto"].evals) == expected


def test_a_run_of_which_nothing_can_be_scored_says_so(tmp_path):
    experiment = from_values(load_config(str(FUSION)))
    experiment = replace(experiment, model=replace(experiment.model, embed_dim=0))
    experiment = replace(experiment, evals=replace(experiment.evals, splits=("unseen_concept_noto",)))
    mesh = make_mesh(experiment.mesh)
    encoders = Encoders(None, None, mesh, PairScorer(*[None] * 7, mesh, can_match=False, can_guess=False))
    with pytest.raises(UserError, match=r"nothing that was trained can be scored: .* leave evals\.splits out"):
        assembly.Evaluation(experiment, assembly.load_tokenizer(experiment), encoders, tmp_path)


def test_without_a_common_space_there_is_no_gallery(tmp_path):
    """Its pictures are of what lies nearest."""
    experiment = from_values(load_config(str(FUSION)))
    evaluate.save_examples(tmp_path, None, replace(experiment, model=replace(experiment.model, embed_dim=0)), None)
    assert not list(tmp_path.iterdir())


def test_a_pair_scorer_knows_the_heads_of_its_model():
    experiment = from_values(load_config(str(FUSION)))
    heads = replace(experiment.model.heads, tokens=False)
    experiment = replace(experiment, model=replace(experiment.model, heads=heads))
    mesh = make_mesh(experiment.mesh)
    pairs = assembly.encoders(experiment, assembly.model_spec_of(experiment, mesh).graphdef, mesh).pairs
    assert (pairs.can_match, pairs.can_guess) == (True, False)
    # A head of the pair that nothing taught to match has no say.
    untaught = replace(experiment, objective=replace(experiment.objective, match=None))
    pairs = assembly.encoders(untaught, assembly.model_spec_of(untaught, mesh).graphdef, mesh).pairs
    assert (pairs.can_match, pairs.can_guess) == (False, False)


@pytest.mark.parametrize(("tokenizer", "message"), [("emoji", "'emoji\\+mask' has one"), ("emoji+mask", "counts on 5")])
def test_a_mask_that_the_tokenizer_does_not_have_is_refused(tokenizer, message):
    experiment = from_values(load_config(str(FUSION)))
    tokens = replace(experiment.objective.tokens, mask_id=5)
    objective = replace(experiment.objective, tokens=tokens)
    data = replace(experiment.data, tokenizer=tokenizer)
    with pytest.raises(UserError, match=message):
        assembly.load_tokenizer(replace(experiment, data=data, objective=objective))
