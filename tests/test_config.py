"""Configs: round trips, shipped configs as they were, and errors that name the key and the nearest names."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import pytest
from flax import nnx

from mmjax import config
from mmjax.config_file import load_config
from mmjax.errors import UserError
from mmjax.experiment import Experiment, from_values
from mmjax.models.vit import ViT
from mmjax.optim.muon import dimension_numbers

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@dataclass(frozen=True)
class Part:
    size: int = 1
    rate: float = 0.5


@dataclass(frozen=True)
class OtherPart(Part):
    extra: str = "x"


@dataclass(frozen=True)
class Whole:
    name: str
    kind: Literal["round", "square"] = "round"
    limit: int | None = None
    flag: bool = False
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    part: Part = Part()
    maybe: Part | None = None
    parts: tuple[Part, ...] = field(default_factory=tuple)


ARGUMENTS = {"lit_minilm_emoji": ":DIR"}
"""What a config is given whose default depends on what is installed."""


def shipped(name: str) -> Experiment:
    return from_values(load_config(str(ROOT / "configs" / f"{name}.py") + ARGUMENTS.get(name, "")))


def golden(name: str) -> Path:
    return Path(__file__).parent / "golden" / f"{name}.json"


def write_golden() -> None:
    """Makes the golden copies again: `python -c "from tests.test_config import *; write_golden()"`."""
    for name in SHIPPED:
        golden(name).write_text(json.dumps(shipped(name).to_dict(), indent=2) + "\n")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_is_what_its_golden_copy_says(name: str) -> None:
    kept = json.loads(golden(name).read_text()) if golden(name).exists() else {}
    changed = config.differences(kept, json.loads(json.dumps(shipped(name).to_dict())))
    assert changed == {}, f"if that is wanted: {write_golden.__doc__}"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_survives_json_and_config_dict(name: str) -> None:
    experiment = shipped(name)
    assert from_values(json.loads(json.dumps(experiment.to_dict()))) == experiment
    assert from_values(experiment.to_config_dict()) == experiment


def test_every_kind_of_field_survives() -> None:
    whole = Whole("a", "square", 3, True, (1.0, 2.0), ("x", "y"), Part(2, 0.25), Part(3), (Part(4), Part(5)))
    assert config.from_dict(Whole, json.loads(json.dumps(config.to_dict(whole)))) == whole
    assert config.from_dict(Whole, config.to_config_dict(whole).to_dict()) == whole


def test_a_subclass_is_named_and_comes_back() -> None:
    whole = Whole("a", part=OtherPart(7, extra="y"))
    plain = config.to_dict(whole)
    assert plain["part"][config.CLASS_KEY].endswith(":OtherPart")
    assert "class" not in config.to_dict(Whole("a"))["part"]
    assert type(config.from_dict(Whole, plain).part).__name__ == "OtherPart"


def test_what_is_none_can_be_overridden_with_its_type() -> None:
    opened = config.to_config_dict(Whole("a"))
    opened.limit = 4
    with pytest.raises(TypeError):
        opened.limit = "four"
    assert config.from_dict(Whole, opened.to_dict()).limit == 4


def test_whole_numbers_in_float_fields_stay_floats() -> None:
    opened = config.to_config_dict(Whole("a", part=Part(rate=1), pair=(0, 2)))
    assert isinstance(opened.part.rate, float)
    assert config.from_dict(Whole, {"name": "a", "pair": (0, 2)}).pair == (0.0, 2.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nam": "a"}, "unknown key config.nam: did you mean name or names?"),
        ({"name": "a", "part": {"sise": 1}}, "unknown key config.part.sise: did you mean size?"),
        ({"name": "a", "zzz": 1}, "unknown key config.zzz: use one of name, kind, limit"),
        ({}, "config.name is missing: give it"),
        ({"name": 3}, "config.name must be str, not 3: change it"),
        ({"name": "a", "limit": 1.5}, "config.limit must be int, not 1.5: change it"),
        ({"name": "a", "limit": True}, "config.limit must be int, not True: change it"),
        ({"name": "a", "flag": 1}, "config.flag must be bool, not 1: change it"),
        ({"name": "a", "part": None}, "config.part must be Part, not None: change it"),
        ({"name": "a", "part": {"rate": "x"}}, "config.part.rate must be float, not 'x': change it"),
        ({"name": "a", "names": "xy"}, "config.names must be a sequence, not 'xy': write it as"),
        ({"name": "a", "names": ("x", 1)}, "config.names[1] must be str, not 1: change it"),
        ({"name": "a", "pair": (1.0,)}, "config.pair must have 2 values, not 1: give"),
        ({"name": "a", "parts": [{"size": "x"}]}, "config.parts[0].size must be int, not 'x': change it"),
        ({"name": "a", "kind": "sqare"}, "config.kind = 'sqare' is not known: did you mean square?"),
        (
            {"name": "a", "part": {"class": "mmjax.nowhere:X"}},
            "config.part.class = 'mmjax.nowhere:X' cannot be imported",
        ),
        ({"name": "a", "part": {"class": "json:dumps"}}, "config.part.class = 'json:dumps' is not a config class"),
    ],
)
def test_an_error_names_the_key_and_the_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.from_dict(Whole, values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_differences_are_told_by_path() -> None:
    old, new = {"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"b": 2, "c": [1, 2]}, "e": 3}
    assert config.differences(old, new) == {"a.b": (1, 2), "d": (1, None), "e": (None, 3)}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"data": {"text_len": 3}}, "data.text_len = 3 but model.text.context_len = "),
        (
            {"data": {"preprocess": {"image_size": 32}}},
            "data.preprocess.image_size = 32 but model.image.image_size = 16",
        ),
        (
            {"data": {"preprocess": {"image_width": 32}}},
            "data.preprocess.image_width = 32 but model.image.image_width = 16",
        ),
        ({"data": {"batch_size": 0}}, "data.batch_size = 0 must be at least 1"),
        ({"train": {"accumulate": 0}}, "train.accumulate = 0 must be at least 1"),
        (
            {"model": {"image": {"stem": "conv", "stem_norm": "batch"}}, "train": {"accumulate": 2}},
            "needs the whole batch at once, but train.accumulate = 2: set it to 1, or stem_norm to 'group'",
        ),
        ({"data": {"num_words": -1}}, "data.num_words = -1 is negative"),
        ({"objective": {"overlap_target": 0.5}}, "objective.overlap_target compares words: set data.num_words"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(override: dict[str, Any], message: str) -> None:
    opened = load_config(str(Path(__file__).parent / "tiny_config.py"))
    opened.update(override)
    with pytest.raises(UserError) as caught:
        from_values(opened)
    assert message in str(caught.value)


def test_muon_takes_every_convolution_of_the_convolutional_recipe() -> None:
    experiment = from_values(load_config(str(ROOT / "configs" / "emoji_siglip_conv.py")))
    stem = jax.eval_shape(lambda: nnx.state(ViT(experiment.model.image, jax.random.key(0)).stem))
    kernels = [path for path, _ in nnx.to_flat_state(stem) if path[-1] == "kernel"]
    assert len(kernels) == 5
    for path in kernels:
        name = "/".join(map(str, ("image", "stem", *path)))
        assert dimension_numbers(experiment.optim.muon, name, 4 if "stages" in path else 2) is not None, name
