"""launch/slurm.sbatch on a real SLURM cluster of one node with two tasks, started for these tests."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.runs import assert_same_run, steps
from tests.folders import write_image_folder

ROOT = Path(__file__).parent.parent.parent
CLUSTER, STAND_IN = ROOT / "tests" / "launch" / "slurm_cluster.sh", ROOT / "tests" / "launch" / "stand_in_trainer.py"
NOT_AVAILABLE = 77
TIMEOUT_SECS = 240


class Cluster:
    """The commands of SLURM against the cluster of `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, *command: str, **variables: str) -> str:
        """What a command prints."""
        environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")} | variables
        return subprocess.run(
            command, env=environment, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, timeout=TIMEOUT_SECS
        ).stdout.strip()

    def submit(self, *arguments: str, python: Path | str = STAND_IN, **variables: str) -> str:
        """The number of a job that runs the trainer with these arguments, in two tasks."""
        options = ("--parsable", "--ntasks=2", f"--output={self.folder / 'job-%j.out'}")
        variables = {"JAX_PLATFORMS": "cpu", "PYTHON": str(python)} | variables
        return self("sbatch", *options, "launch/slurm.sbatch", *arguments, **variables)

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says of it."""
        fields = self("scontrol", "show", "job", number).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def log(self, number: str) -> str:
        path = self.folder / f"job-{number}.out"
        return path.read_text() if path.exists() else ""

    def wait_until(self, number: str, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + TIMEOUT_SECS
        while not reached():
            assert time.monotonic() < end, f"{self.job(number)}\n{self.log(number)}"
            time.sleep(0.1)

    def wait_for_end(self, number: str) -> str:
        """The state in which the job ends."""
        self.wait_until(number, lambda: self.job(number)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"))
        return self.job(number)["JobState"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    command = ["bash", str(CLUSTER), str(folder)]
    with (folder / "cluster.out").open("w") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdin
    assert process.stdout
    said = process.stdout.readline().strip()
    if said != "ready":
        status = process.wait(TIMEOUT_SECS)
        assert status == NOT_AVAILABLE, (folder / "cluster.out").read_text()
        pytest.skip(said)
    yield Cluster(folder)
    process.stdin.close()
    process.stdout.close()
    assert process.wait(TIMEOUT_SECS) == 0


def number_in(path: Path) -> int:
    text = path.read_text() if path.exists() else ""
    return int(text or 0)  # a file that is being written is empty for a moment


def steps_of_all(folder: Path) -> int:
    """The step that both tasks have reached."""
    return min(number_in(folder / f"steps.{task}") for task in range(2))


def test_a_preempted_job_is_queued_again_and_finishes(cluster: Cluster, tmp_path: Path) -> None:
    """Once the batch shell alone is signalled, once SLURM takes the node away for another job."""
    number = cluster.submit("--config=a.py", "--workdir", str(tmp_path), "--steps", "60")
    urgent = ("sbatch", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 1")
    for restarts, preempt in enumerate([("scancel", "--batch", "--signal=TERM", number), urgent]):
        cluster.wait_until(number, lambda: steps_of_all(tmp_path) > 20 * restarts)  # noqa: B023
        cluster(*preempt)
        cluster.wait_until(number, lambda: cluster.job(number)["Restarts"] == str(restarts + 1))  # noqa: B023
    assert cluster.wait_for_end(number) == "COMPLETED", cluster.log(number)
    for task in range(2):
        assert number_in(tmp_path / f"steps.{task}") == 60
        assert number_in(tmp_path / f"starts.{task}") == 3
    assert cluster.log(number).count("is queued again") == 2


def test_a_cancelled_job_saves_and_is_not_queued_again(cluster: Cluster, tmp_path: Path) -> None:
    number = cluster.submit("--config=a.py", "--workdir", str(tmp_path), "--steps", "1000")
    cluster.wait_until(number, lambda: steps_of_all(tmp_path) > 0)
    cluster("scancel", number)
    cluster.wait_until(number, lambda: not cluster("squeue", "--noheader", "--jobs", number))
    assert cluster.job(number)["JobState"] == "CANCELLED", cluster.log(number)
    assert "is queued again" not in cluster.log(number)


def test_a_job_that_is_stopped_before_its_trainer_listens_is_queued_again(cluster: Cluster, tmp_path: Path) -> None:
    """Python's imports take seconds, in which SIGTERM kills it."""
    number = cluster.submit("--config=a.py", "--workdir", str(tmp_path), "--ends", "143,75")
    cluster.wait_until(number, lambda: cluster.job(number)["Restarts"] == "1")
    cluster("scancel", number)
    assert "is queued again" in cluster.log(number)
    assert "crash" not in cluster.log(number)


def test_wrong_input_ends_the_job_whatever_other_tasks_say(cluster: Cluster, tmp_path: Path) -> None:
    number = cluster.submit("--config=a.py", "--workdir", str(tmp_path), "--ends", "2,75")
    assert cluster.wait_for_end(number) == "FAILED"
    assert cluster.job(number)["ExitCode"] == "2:0"
    assert (cluster.job(number)["Restarts"], number_in(tmp_path / "starts.0")) == ("0", 1)


def test_a_crash_is_started_again_a_limited_number_of_times(cluster: Cluster, tmp_path: Path) -> None:
    number = cluster.submit("--config=a.py", "--workdir", str(tmp_path), "--ends", "139,75", MAX_CRASHES="2")
    assert cluster.wait_for_end(number) == "FAILED"
    assert cluster.job(number)["ExitCode"] == "1:0"
    assert (cluster.job(number)["Restarts"], number_in(tmp_path / "starts.0")) == ("0", 2)
    assert "task 0 on" in cluster.log(number)
    assert "ended with status 139" in cluster.log(number)


def test_fewer_tasks_than_gpus_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    number = cluster.submit("--config=a.py", "--workdir", str(tmp_path), SLURM_GPUS_ON_NODE="8")
    assert cluster.wait_for_end(number) == "FAILED"
    assert "--ntasks-per-node=8" in cluster.log(number)


NUM_STEPS = 120


class Training:
    """Runs of the tiny model in two processes of one device, which see the same images and share what is compiled."""

    def __init__(self, cluster: Cluster, folder: Path):
        self._cluster, self._folder = cluster, folder
        self._images = write_image_folder(folder / "images")

    def submit(self, workdir: Path) -> str:
        settings = {"mesh.data": 2, "train.num_steps": NUM_STEPS, "checkpoint.every_steps": NUM_STEPS}
        settings |= {"evals.splits": "", "logs.metrics.tensorboard": False}
        variables = {
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self._folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        arguments = ["--config=tests/tiny_config.py", f"--workdir={workdir}", f"--data=imagefolder:{self._images}"]
        overrides = [f"--config.{name}={value}" for name, value in settings.items()]
        return self._cluster.submit(*arguments, *overrides, python=sys.executable, **variables)


@pytest.mark.long
def test_training_ends_with_the_same_bits_whether_it_was_preempted_or_not(cluster: Cluster, tmp_path: Path) -> None:
    """SIGTERM to the tasks, as SLURM sends it before a time limit or a preemption."""
    training, quiet, preempted = Training(cluster, tmp_path), tmp_path / "quiet", tmp_path / "preempted"
    number = training.submit(quiet)
    assert cluster.wait_for_end(number) == "COMPLETED", cluster.log(number)

    number = training.submit(preempted)
    cluster.wait_until(number, lambda: bool(steps(preempted)))
    cluster("scancel", "--signal=TERM", number)
    assert cluster.wait_for_end(number) == "COMPLETED", cluster.log(number)

    assert cluster.job(number)["Restarts"] == "1"
    assert_same_run(preempted, quiet)
