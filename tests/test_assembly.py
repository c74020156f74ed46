"""Which splits are used of data that the command line names."""

from pathlib import Path

import pytest

from mmjax import assembly
from mmjax.config_file import load_config
from mmjax.experiment import from_values

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
