"""Training and evaluation end to end on the tiny config: logs, resuming, meshes, other data."""

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mmjax import ending, evaluate, train
from mmjax.data.emoji.concepts import Concept
from mmjax.data.emoji.write import Drawing, write_dataset
from mmjax.training.jsonl import read_lines
from tests.data.tiny_sources import png
from tests.faults.runs import final_state
from tests.folders import write_image_folder
from tests.tolerances import LAYER

CONFIG = Path(__file__).parent / "tiny_config.py"
NUM_STEPS = 6
pytestmark = pytest.mark.usefixtures("shared_compilations")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"))


def start(workdir: Path, data: str, *overrides: str) -> int:
    """The status of `python -m mmjax.train`."""
    arguments = [f"--config={CONFIG}", f"--workdir={workdir}", f"--data={data}", *overrides]
    return ending.status(train.main, arguments)


def scores(workdir: Path, *arguments: str) -> dict[str, Any]:
    """What `python -m mmjax.evaluate --json` writes."""
    path = workdir / "results" / "scores.json"
    assert ending.status(evaluate.main, [f"--workdir={workdir}", f"--json={path}", *arguments]) == 0
    return json.loads(path.read_text())


def losses(workdir: Path) -> list[float]:
    return [line["loss"] for line in read_lines(workdir / "metrics.jsonl")]


def final_arrays(workdir: Path) -> list[Any]:
    return jax.tree.leaves(final_state(workdir))


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted, on one device."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    assert start(workdir, f"imagefolder:{folder}") == 0
    return workdir


def test_each_step_is_one_line_with_its_numbers(finished: Path) -> None:
    lines = list(read_lines(finished / "metrics.jsonl"))
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    names = {"loss", "loss/sigmoid", "grad_norm", "param_norm", "logit_scale", "logit_bias", "learning_rate"}
    assert all(np.isfinite([line[name] for name in names]).all() for line in lines)
    assert {"step_secs", "examples_per_sec", "data_wait_share", "model_flops_per_sec", "mfu"} <= set(lines[-1])
    assert {"flops/image", "flops/text"} <= set(lines[0])
    assert (finished / "tensorboard").is_dir()


def test_evaluations_run_inside_training_and_at_its_end(finished: Path) -> None:
    lines = list(read_lines(finished / "evals.jsonl"))
    assert [line["step"] for line in lines] == [4, NUM_STEPS]
    assert lines[-1]["test"] == scores(finished)["splits"]["test"]


def test_a_finished_run_ends_at_once(finished: Path, folder: Path) -> None:
    before = (finished / "metrics.jsonl").read_text()
    assert start(finished, f"imagefolder:{folder}") == 0
    assert (finished / "metrics.jsonl").read_text() == before


def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(
    finished: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes between the checkpoints of steps 4 and 6, when step 5 is in the log already."""
    with monkeypatch.context() as patch:
        stop_at_batch(6, patch)
        assert start(tmp_path, f"imagefolder:{folder}") == 130
    assert start(tmp_path, f"imagefolder:{folder}") == 0
    assert losses(tmp_path) == losses(finished)
    assert (tmp_path / "evals.jsonl").read_text() == (finished / "evals.jsonl").read_text()
    for resumed, whole in zip(final_arrays(tmp_path), final_arrays(finished), strict=True):
        np.testing.assert_array_equal(resumed, whole)


def stop_at_batch(number: int, patch: pytest.MonkeyPatch) -> None:
    place, numbers = train.place, itertools.count(1)

    def place_or_stop(*arguments: Any) -> Any:
        if next(numbers) == number:
            raise KeyboardInterrupt
        return place(*arguments)

    patch.setattr(train, "place", place_or_stop)


def test_a_run_goes_on_on_other_meshes(finished: Path, folder: Path, tmp_path: Path) -> None:
    """Data, fsdp and tensor parallel in turn, and then one device: the same examples, the same losses."""
    meshes = {2: (8, 1, 1), 4: (2, 4, 1), 5: (1, 2, 2), NUM_STEPS: (1, 1, 1)}
    for last_step, sizes in meshes.items():
        mesh = [f"--config.mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), sizes, strict=True)]
        length = f"--config.train.num_steps={last_step}"
        assert start(tmp_path, f"imagefolder:{folder}", "--config.evals.splits=()", length, *mesh) == 0
    np.testing.assert_allclose(losses(tmp_path), losses(finished), rtol=LAYER)


RECALLS = {"r@1", "r@5", "r@10"}


def assert_retrieval(results: dict[str, Any], num_candidates: int) -> None:
    retrieval = results["retrieval"]
    assert set(retrieval) == {"image_to_text", "text_to_image", "num_candidates", "num_images"}
    for direction in ("image_to_text", "text_to_image"):
        assert set(retrieval[direction]) == RECALLS
        assert all(0 <= value <= 1 for value in retrieval[direction].values())
    assert retrieval["num_candidates"] == num_candidates
    assert isinstance(retrieval["num_candidates"], int)


def test_scores_as_scripts_read_them(finished: Path, folder: Path) -> None:
    results = scores(finished)
    assert_retrieval(results, 12)
    about = {"data": f"imagefolder:{folder}", "split": "test", "step": NUM_STEPS, "ema": True}
    assert {name: results[name] for name in about} == about


def test_scores_on_another_folder(finished: Path, tmp_path: Path) -> None:
    other = write_image_folder(tmp_path / "other", prefix="other", val=5)
    results = scores(finished, f"--data=imagefolder:{other}")
    assert_retrieval(results, 5)
    assert results["split"] == "val"


def test_a_tfds_directory_is_trained_and_scored_on(tmp_path: Path) -> None:
    concepts = [Concept(n, f"{n:X}", f"label {n}", ("tag",), "group", f"subgroup {n % 3}", "family") for n in range(24)]
    drawings = [Drawing(concept, "vendor", png(concept.concept_id)) for concept in concepts]
    write_dataset(tmp_path / "own" / "1.0.0", {"train": drawings[:16], "test": drawings[16:]}, 16)
    assert start(tmp_path / "run", f"tfds:{tmp_path / 'own'}", "--config.data.text_key=label") == 0
    assert len(losses(tmp_path / "run")) == NUM_STEPS
    assert_retrieval(scores(tmp_path / "run"), 8)


MIXED = """
from dataclasses import replace

from mmjax.data.mixture import PartConfig
from mmjax.experiment import from_values
from tests.tiny_config import get_config as tiny


def get_config():
    experiment = from_values(tiny())
    mixture = ({parts})
    data = replace(experiment.data, source="imagefolder:{folder}", mixture=mixture)
    return replace(experiment, data=data).to_config_dict()
"""


def start_mixed(workdir: Path, folder: Path, weights: dict[str, float], *overrides: str) -> int:
    """The status of training on splits of `folder` in these shares."""
    parts = " ".join(f"PartConfig('imagefolder:{folder}', {split!r}, {weight})," for split, weight in weights.items())
    config = workdir.with_name("mixed.py")
    config.write_text(MIXED.format(parts=parts, folder=folder))
    arguments = [f"--config={config}", f"--workdir={workdir}", "--config.evals.splits=()", *overrides]
    return ending.status(train.main, arguments)


def test_a_mixture_goes_on_as_it_was(folder: Path, tmp_path: Path) -> None:
    shares = {"train": 1.0, "test": 2.0}
    assert start_mixed(tmp_path / "whole", folder, shares) == 0
    for last_step in (2, 6):
        assert start_mixed(tmp_path / "parted", folder, shares, f"--config.train.num_steps={last_step}") == 0
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")


def test_other_data_is_refused_or_accepted_and_recorded(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, short = tmp_path / "run", "--config.train.num_steps=2"
    assert start_mixed(run, folder, {"train": 1.0}, short) == 0
    before = final_arrays(run)
    assert start_mixed(run, folder, {"train": 1.0, "test": 3.0}) == 2
    assert "give another --workdir, or --accept_new_data" in capfd.readouterr().err
    for resumed, old in zip(final_arrays(run), before, strict=True):
        np.testing.assert_array_equal(resumed, old)
    assert start_mixed(run, folder, {"train": 1.0, "test": 3.0}, "--accept_new_data") == 0
    (change,) = read_lines(run / "data_changes.jsonl")
    assert change["step"] == 2
    assert [part["first_draw"] for part in change["after"]["parts"]] == [16, 0]
    assert change["after"]["first_position"] == 16
    assert len(change["changes"]) == 1
    assert start_mixed(run, folder, {"train": 1.0, "test": 3.0}) == 0, "it is what the run reads now"


def test_what_was_accepted_goes_on_as_it_was(folder: Path, tmp_path: Path) -> None:
    """A run whose data changed, and that then stopped, reads what one reads that did not stop."""
    shares = {"train": 1.0, "test": 3.0}
    for name, stops in (("whole", ["6"]), ("parted", ["4", "6"])):
        run = tmp_path / name / "run"
        run.parent.mkdir()
        assert start_mixed(run, folder, {"train": 1.0}, "--config.train.num_steps=2") == 0
        for stop in stops:
            assert start_mixed(run, folder, shares, f"--config.train.num_steps={stop}", "--accept_new_data") == 0
    assert losses(tmp_path / "parted" / "run") == losses(tmp_path / "whole" / "run")
    assert len(list(read_lines(tmp_path / "parted" / "run" / "data_changes.jsonl"))) == 1


def test_data_that_grew_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The config is the same, and the order would be another."""
    folder = write_image_folder(tmp_path / "images", train=32, test=4)
    assert start(tmp_path / "run", f"imagefolder:{folder}", "--config.train.num_steps=2") == 0
    metadata = folder / "train" / "metadata.jsonl"
    metadata.write_text(metadata.read_text() + json.dumps({"file_name": "0.png", "text": "one more"}) + "\n")
    assert start(tmp_path / "run", f"imagefolder:{folder}") == 2
    assert "has 33 records, and had 32): put it back, or give --accept_new_data" in capfd.readouterr().err
    assert start(tmp_path / "run", f"imagefolder:{folder}", "--accept_new_data") == 0
