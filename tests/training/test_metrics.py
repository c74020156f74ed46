import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.training.jsonl import read_lines
from mmjax.training.metrics import MetricsConfig, MetricsWriter, WandbConfig

FILES_ONLY = MetricsConfig(tensorboard=False)


def steps_in(path: Path) -> list[int]:
    return [line["step"] for line in read_lines(path)]


def write_steps(workdir: Path, start_step: int, last_step: int) -> None:
    writer = MetricsWriter(workdir, start_step, FILES_ONLY)
    for step in range(start_step + 1, last_step + 1):
        writer.write(step, {"loss": 1.0 / step})
    writer.close()


def test_each_line_is_a_step_with_floats(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0, FILES_ONLY)
    writer.write(1, {"loss": np.float32(0.5), "skipped": np.int64(2), "gradient_norm": float("inf")})
    writer.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1, "loss": 0.5, "skipped": 2.0, "gradient_norm": None}


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0, FILES_ONLY)
    writer.write(1, {"loss": 1.0})
    assert steps_in(tmp_path / "metrics.jsonl") == [1]
    writer.close()


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, 7)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    write_steps(tmp_path, 5, 9)
    assert steps_in(tmp_path / "metrics.jsonl") == list(range(1, 10))
    assert [path.name for path in tmp_path.iterdir() if "shortened" in path.name] == []


def test_a_broken_line_in_the_middle_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is not JSON"):
        MetricsWriter(tmp_path, 3, FILES_ONLY)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 3


def test_evaluations_are_nested_and_a_step_written_again_is_replaced(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0, FILES_ONLY)
    for recall in (0.25, 0.5):
        writer.write_evals(10, {"retrieval": {"image_to_text": {"r@1": recall}, "num_candidates": 4}})
    writer.close()
    (line,) = read_lines(tmp_path / "evals.jsonl")
    assert line == {"step": 10, "retrieval": {"image_to_text": {"r@1": 0.5}, "num_candidates": 4}}


def test_tensorboard_writes_event_files(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0, MetricsConfig(tensorboard=True))
    writer.write(1, {"loss": 1.0})
    writer.write_evals(1, {"retrieval": {"r@1": 0.5}})
    writer.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content
    assert b"eval/retrieval/r_at_1" in content


def test_weights_and_biases_missing_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'mmjax\[wandb\]'"):
        MetricsWriter(tmp_path, 0, MetricsConfig(tensorboard=False, wandb=WandbConfig(enabled=True)))


def test_weights_and_biases_goes_on_under_the_same_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = MetricsConfig(tensorboard=False, wandb=WandbConfig(enabled=True, project="p", mode="offline"))
    for _ in range(2):
        writer = MetricsWriter(tmp_path, 0, config, {"train": {"seed": 1}})
        writer.write(1, {"loss": 1.0})
        writer.close()
    first, second = fake.started
    assert first == second
    assert (first["project"], first["mode"], first["config"]) == ("p", "offline", {"train": {"seed": 1}})
    assert fake.logged == [{"step": 1, "loss": 1.0}] * 2


class FakeWandb:
    """The part of the service's module that the writer uses."""

    def __init__(self) -> None:
        self.started: list[dict[str, object]] = []
        self.logged: list[dict[str, float]] = []

    def init(self, **arguments: object) -> "FakeWandb":
        self.started.append(arguments)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        pass
