"""Apache Beam prepares what the processes of one machine prepare, byte for byte; see launch/test_optional.sh."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="runs in an environment of its own: bash launch/test_optional.sh")

from mmjax import ending
from mmjax.data.prepare import __main__ as prepare
from mmjax.data.prepare import pipeline
from mmjax.errors import UserError
from tests.data.sources.tiny_tars import write_shards

ARGUMENTS = ("--dedup=exact", "--filter=min_chars=2", "--shards=5")


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tars")
    write_shards(folder)
    return folder


def run(tars: Path, out: Path, *arguments: str) -> int:
    return ending.status(prepare.main, [f"--source=wds:{tars}/*.tar", f"--out={out}", *ARGUMENTS, *arguments])


@pytest.mark.parametrize("options", ["", " --direct_running_mode=multi_processing --direct_num_workers=2"])
def test_it_writes_what_processes_write(tars: Path, tmp_path: Path, options: str) -> None:
    assert run(tars, tmp_path / "processes", "--workers=1") == 0
    assert run(tars, tmp_path / "beam", f"--beam=DirectRunner{options}") == 0
    names = {path.name for path in (tmp_path / "processes").iterdir()}
    assert names == {path.name for path in (tmp_path / "beam").iterdir()}
    for name in names:
        assert (tmp_path / "beam" / name).read_bytes() == (tmp_path / "processes" / name).read_bytes(), name


def test_one_that_was_stopped_goes_on(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*job: object) -> None:
        raise UserError("its disk is full: make room")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_part", stopped)
        assert run(tars, tmp_path / "out", "--beam=DirectRunner") == 2
    facts = sorted((tmp_path / "out" / "unfinished").glob("facts-*.npz"))
    assert len(facts) == 5
    monkeypatch.setattr(pipeline.facts, "gather", lambda *_: pytest.fail("it was done before"))
    assert run(tars, tmp_path / "out", "--beam=DirectRunner") == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["kept"] == 12


@pytest.mark.parametrize(
    "runner",
    [
        "Direct0Runner",
        "",
        "'",
        "apache_beam.Nope",
        "os.path",
        "DirectRunner --direct_num_workers=abc",
        "DirectRunner --direct_num_wokers=2",
    ],
)
def test_a_runner_that_is_none_is_one_line(
    tars: Path, tmp_path: Path, runner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tars, tmp_path / "out", f"--beam={runner} ") == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: --beam")
    assert not (tmp_path / "out").exists()


def test_without_jax_and_grain() -> None:
    """It is not installed on the machines that Beam finds."""
    program = (
        "import sys, mmjax.data.prepare.__main__; print([m for m in ('jax', 'flax', 'grain') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
