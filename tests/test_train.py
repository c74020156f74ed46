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
