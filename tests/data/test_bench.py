"""What the input pipeline gives and costs, as `python -m mmjax.data.bench` says it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mmjax import ending
from mmjax.data import bench, cores
from mmjax.data.config import DataConfig
from mmjax.data.costs import Costs
from tests.folders import write_image_folder

QUICK = ("--secs=0.2", "--config.data.batch_size=8", "--config.data.num_threads=2", "--config.data.text_len=8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"))


def test_stages_and_what_limits_are_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    assert ending.status(bench.main, [f"--source=imagefolder:{folder}", f"--json={path}", "--rate=5000", *QUICK]) == 0
    said = capsys.readouterr().out
    for words in (
        "read",
        "decode",
        "augment",
        "tokenize",
        "examples/s with 2 threads",
        "what limits is",
        "5,000 examp",
    ):
        assert words in said
    found = json.loads(path.read_text())
    assert found["examples_per_sec"] > 0
    assert found["costs"]["rows"] % 8 == 0
    assert found["cpu_secs_each"] == pytest.approx(sum(found["costs"]["cpu_secs"].values()) / found["costs"]["rows"])


def settings(*arguments: str) -> DataConfig:
    return bench.settings(bench.parse(arguments))


def test_settings_of_a_config_and_of_a_run(folder: Path, tmp_path: Path) -> None:
    config = settings("--config=tests/tiny_config.py", "--config.data.batch_size=4", f"--source=imagefolder:{folder}")
    assert (config.batch_size, config.preprocess.image_size, config.source) == (4, 16, f"imagefolder:{folder}")
    (tmp_path / "config.json").write_text(json.dumps({"data": {"source": "emoji", "split": "tune_fit", "text_len": 5}}))
    run = f"--workdir={tmp_path}"
    assert settings(run) == DataConfig(split="tune_fit", text_len=5)
    assert settings(run, "--config.data.text_len=7", "--split=tune_style") == DataConfig(split="tune_style", text_len=7)
    assert settings("--source=csv:a") == replace(bench.DEFAULT, source="csv:a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=/nowhere"], "/nowhere holds no run: give the --workdir of python -m mmjax.train"),
        (["--workdir=/nowhere", "--config=tests/tiny_config.py"], "--config and --workdir each name the settings"),
        (["--source=emoji", "--json=/nowhere/x.json"], "--json=/nowhere/x.json is in a folder that does not exist"),
        (["--source=emoji", "--secs=long"], "--secs=long is not a number: write --secs=10"),
        (["--source=emojy"], "data.source 'emojy' does not exist: did you mean emoji?"),
        (["--source=emoji", "--config.data.num_thread=2"], "unknown key config.data.num_thread: did you mean num_thre"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending.status(bench.main, arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "rate", "idle", "costs", "said"),
    [
        (
            {"num_threads": 4},
            1900,
            0.05,
            {"read": 0.1, "decode": 0.9},
            "what limits is computing, most of all to decode",
        ),
        (
            {"augment": bench.DEFAULT.augment},
            1900,
            0.05,
            {"decode": 0.9},
            "augment.decoder = 'turbo' takes half of that",
        ),
        ({"num_threads": 1}, 950, 0.5, {"read": 0.1, "decode": 0.9}, "1 of 2 cores are used: raise data.num_threads"),
        (
            {"num_threads": 4},
            100,
            0.9,
            {"read": 9.0, "decode": 1.0},
            "what limits is waiting for the storage (95% of the",
        ),
        (
            {"num_threads": 4},
            900,
            0.5,
            {"read": 0.1, "decode": 5.0},
            "what limits is one Python with all threads (55% of",
        ),
        (
            {"num_threads": 4},
            900,
            0.1,
            {"read": 0.1, "decode": 5.0},
            "other programs do on this machine (55% of the cores",
        ),
    ],
)
def test_what_limits(config: dict, rate: float, idle: float, costs: dict[str, float], said: str) -> None:
    """Of a thousand examples, each computed in a millisecond, most of it to decode."""
    found = bench.Measured(rate, 1.0, 10.0, Costs(1000, costs, {"read": 0.1, "decode": 0.9}), 0, idle)
    assert said in bench.limit(replace(DataConfig(), **config), found, cores=2)


def test_idle_time_is_that_of_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a disk is idle too, and a third core is of others."""
    times = [SimpleNamespace(idle=idle, iowait=waits) for idle, waits in ((10.0, 1.0), (20.0, 0.5), (500.0, 0.0))]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: times)
    monkeypatch.setattr(cores, "_allowed", lambda: [0, 1])
    assert cores.idle_secs() == 31.5
    assert cores.num_cores() == 2
