"""launch/tpu_vm.sh with a gcloud that only pretends."""

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT, FAKE = ROOT / "launch" / "tpu_vm.sh", ROOT / "tests" / "launch" / "fake_gcloud.sh"
STAND_IN = ROOT / "tests" / "launch" / "stand_in_trainer.py"
WHERE = ("--name", "run", "--zone", "us-east5-b", "--accelerator", "v6e-16")
WHAT = ("--", "--config", "a.py", "--workdir", "/mnt/my runs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose `bin` has the pretended gcloud."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gcloud").symlink_to(FAKE)
    return tmp_path


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "FAKE_GCLOUD": str(folder), "POLL_SECS": "0"}
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False)


def train(folder: Path, *script: str) -> tuple[int, list[str]]:
    """The exit status, and the verbs that gcloud was called with, but for those that only look."""
    (folder / "script").write_text("".join(f"{line}\n" for line in script))
    done = launch(folder, *WHERE, *WHAT)
    calls = [shlex.split(line) for line in (folder / "calls").read_text().splitlines()]
    names = ["train" if "tpu_vm_worker.sh train" in str(call) else call[0] for call in calls]
    return done.returncode, [name for name in names if name != "list"]


UP = ["create", "scp", "ssh", "ssh", "train"]  # two commands by ssh: unpack, install


def test_a_run_is_created_trained_and_deleted(folder: Path) -> None:
    assert train(folder, "0,0 ACTIVE") == (0, [*UP, "delete"])


def test_status_75_trains_again_on_the_same_workers(folder: Path) -> None:
    assert train(folder, *["75,75 ACTIVE"] * 4, "0,0 ACTIVE") == (0, [*UP, *["train"] * 4, "delete"])


def test_a_preempted_tpu_is_asked_for_again(folder: Path) -> None:
    assert train(folder, *["- SUSPENDED"] * 4, "0,0 ACTIVE") == (0, [*[*UP, "delete"] * 4, *UP, "delete"])


def test_wrong_input_ends_it_whatever_the_other_workers_say(folder: Path) -> None:
    assert train(folder, "75,2 ACTIVE") == (2, [*UP, "delete"])


@pytest.mark.parametrize("failure", ["75,139 ACTIVE", "- ACTIVE"])
def test_failures_are_started_again_three_times(folder: Path, failure: str) -> None:
    assert train(folder, *[failure] * 4) == (1, [*UP, "train", "train", "delete"])


def test_a_run_that_is_there_is_gone_on_with(folder: Path) -> None:
    (folder / "state").write_text("ACTIVE")
    assert train(folder, "0,0 ACTIVE") == (0, [*UP[1:], "delete"])


def test_dry_run_prints_the_commands_and_runs_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--a=1 --b=2")
    done = launch(folder, *WHERE, "--slices", "2", "--setup", "mount it", "--dry-run", *WHAT)
    assert (done.returncode, (folder / "calls").exists()) == (0, False)
    commands = [shlex.split(line)[4:] for line in done.stdout.splitlines()]
    assert [command[0] for command in commands] == ["list", "create", "scp", "ssh", "ssh", "ssh", "delete"]
    assert {"--node-count=2", "--spot", "--accelerator-type=v6e-16"} <= set(commands[1])
    assert "--command=cd mmjax && bash launch/tpu_vm_worker.sh install && mount it" in commands[4]
    remote = next(word for word in commands[5] if word.startswith("--command="))
    assert shlex.split(remote)[-4:] == ["--config", "a.py", "--workdir", "/mnt/my runs"]
    assert "LIBTPU_INIT_ARGS=--a=1 --b=2" in shlex.split(remote)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--zone", "z", *WHAT), "error: --name is needed"),
        (("--nam", "run"), "error: --nam is no option"),
        (WHERE, "error: say what to train"),
        ((*WHERE, "--slices"), "error: --slices needs a value"),
    ],
)
def test_wrong_options_are_one_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = launch(folder, *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith(message)


def test_a_worker_stops_the_trainer_that_an_earlier_launcher_left(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(STAND_IN)
    command = ["bash", str(tmp_path / "launch" / "tpu_vm_worker.sh"), "train", f"--workdir={tmp_path / 'run'}"]
    with subprocess.Popen([*command, "--steps=1000"], stdout=subprocess.PIPE, text=True) as earlier:
        while not (tmp_path / "run" / "steps.0").exists():
            assert earlier.poll() is None
            time.sleep(0.05)
        later = subprocess.run([*command, "--steps=1"], capture_output=True, text=True, timeout=60, check=False)
        said, _ = earlier.communicate()
    assert (earlier.returncode, said.split()[-1]) == (75, "75")
    assert (later.returncode, later.stdout.split()[-1]) == (0, "0")
