"""Runs that are killed, and damaged while they lie: they end as the run that nothing happened to."""

import itertools
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from mmjax import train
from tests.faults.runs import Runs, assert_same_run, damage, largest_file, saved_steps, steps
from tests.folders import write_image_folder

STEPS = ("--config.train.num_steps=12", "--config.checkpoint.every_steps=3", "--config.evals.every_steps=4")
pytestmark = pytest.mark.usefixtures("shared_compilations")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, compiled_folder: Path, shared_compilations: None) -> Runs:
    return Runs(write_image_folder(tmp_path_factory.mktemp("images")), compiled_folder, *STEPS)


@pytest.fixture(scope="module")
def whole(tiny: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert tiny.inside(workdir) == 0
    return workdir


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The run that nothing interrupted, to be damaged."""
    return shutil.copytree(whole, tmp_path / "run")


def test_five_kills_change_nothing(tiny: Runs, whole: Path, tmp_path: Path) -> None:
    for fault in ("kill start-up 0", "kill step 5", "kill evaluation 1", "kill save 1", "kill data 1"):
        assert tiny.finish(tmp_path / "run", fault=fault) == (-signal.SIGKILL, "")
    assert tiny.finish(tmp_path / "run") == (0, "")
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("place", "times", "saved"), [("place", 5, 6), ("first_state", 0, None), ("evaluation", 1, 8)], ids=str
)
def test_a_notice_of_preemption_saves_and_asks_to_start_again(
    place: str,
    times: int,
    saved: int | None,
    tiny: Runs,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Between two steps, before the first, and in the second evaluation, that of step 8."""
    owner, name = (train.assembly.Evaluation, "__call__") if place == "evaluation" else (train, place)
    with monkeypatch.context() as patch:
        signal_at(owner, name, times, patch)
        assert tiny.inside(tmp_path) == 75
    last_line = capfd.readouterr().err.splitlines()[-1]
    assert last_line == (
        f"stopped: the machine is taken away; step {saved or 0} is saved: run the same command again to go on"
    )
    assert saved_steps(tmp_path)[-1:] == [saved or 0]
    assert steps(tmp_path) == list(range(1, (saved or 0) + 1))
    assert tiny.inside(tmp_path) == 0
    assert_same_run(tmp_path, whole)


def signal_at(owner: Any, name: str, times: int, patch: pytest.MonkeyPatch) -> None:
    """Sends SIGTERM when a function is called after so many `times`."""
    whole, numbers = getattr(owner, name), itertools.count()

    def signalled(*arguments: Any, **options: Any) -> Any:
        if next(numbers) == times:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(*arguments, **options)

    patch.setattr(owner, name, signalled)


# What is left of a broken reading complains when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["bit", "half", "missing"])
def test_a_damaged_checkpoint_is_set_aside(
    kind: str, tiny: Runs, whole: Path, copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = copy / "checkpoints" / "12"
    damage(largest_file(copy, 12), kind)
    assert tiny.inside(copy) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("checkpoint ")]
    aside = copy / "damaged_checkpoints" / "12"
    assert len(lines) == 1
    assert lines[0].startswith(f"checkpoint {place} is damaged (")
    assert lines[0].endswith(f"): it was moved to {aside}")
    assert aside.is_dir()
    assert saved_steps(copy) == [9, 12]
    assert_same_run(copy, whole)


def test_where_every_checkpoint_is_damaged_none_is_lost(
    tiny: Runs, copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for step in saved_steps(copy):
        damage(copy / "checkpoints" / str(step) / "record" / "metadata", "half")
    assert tiny.inside(copy) == 2
    last_line = capfd.readouterr().err.splitlines()[-1]
    assert last_line.startswith(f"error: no checkpoint of {copy / 'checkpoints'} is whole: restore a copy of one")
    assert sorted(path.name for path in (copy / "damaged_checkpoints").iterdir()) == ["12", "9"]


def test_runs_that_differ_are_told_apart(whole: Path, copy: Path) -> None:
    text = (copy / "metrics.jsonl").read_text()
    (copy / "metrics.jsonl").write_text(text.replace('"step": 5', '"step": 4'))
    with pytest.raises(AssertionError):
        assert_same_run(copy, whole)
