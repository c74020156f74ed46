"""Runs of several processes, started by `launch/local.sh`: what becomes of them when one process is lost."""

import contextlib
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.faults.runs import Runs, damage, ended, largest_file, losses, saved_steps, steps, wait_for
from tests.folders import write_image_folder
from tests.ports import free_port
from tests.tolerances import LAYER

STEPS = ("--config.train.num_steps=8", "--config.checkpoint.every_steps=2", "--config.evals.splits=()")
TWO = ["--processes", "2", "--devices-per-process", "1"]
MESH = "--config.mesh.data=2"
pytestmark = pytest.mark.usefixtures("shared_compilations")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, compiled_folder: Path, shared_compilations: None) -> Runs:
    return Runs(write_image_folder(tmp_path_factory.mktemp("images")), compiled_folder, *STEPS)


def processes_of(launcher: int) -> dict[int, psutil.Process]:
    """The training processes that a launcher has started, by their number."""
    children = psutil.Process(launcher).children()
    found = {}
    for child in children:
        # What the launcher waits by comes and goes.
        with contextlib.suppress(psutil.NoSuchProcess):
            if "mmjax.train" in child.cmdline():
                found[child.environ().get("MMJAX_PROCESS_ID")] = child
    return {int(number): child for number, child in found.items() if number is not None}


def test_a_killed_process_is_named_and_all_start_again(tiny: Runs, tmp_path: Path) -> None:
    """The two follow the run of one process, which makes the last steps."""
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    assert tiny.inside(whole, MESH) == 0

    killed = tiny.start_locally(workdir, TWO, MESH, "--config.train.num_steps=6")
    wait_for(lambda: len(steps(workdir)) > 2)
    processes_of(killed.pid)[1].kill()
    status, errors = ended(killed)
    assert status == 0
    assert "process 1 (" in errors
    assert "was lost; it was last doing " in errors
    assert "starting again (1 of 3)" in errors
    assert saved_steps(workdir)[-1] == 6

    assert tiny.inside(workdir, "--config.mesh.data=1") == 0
    assert steps(workdir) == steps(whole)
    np.testing.assert_allclose(losses(workdir), losses(whole), rtol=LAYER)


@pytest.mark.long
def test_a_notice_stops_all_at_one_step_and_four_go_on(tiny: Runs, tmp_path: Path) -> None:
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    assert tiny.inside(whole, MESH) == 0

    stopped = tiny.start_locally(workdir, TWO, MESH)
    wait_for(lambda: len(steps(workdir)) >= 1)
    stopped.send_signal(signal.SIGTERM)
    status, errors = ended(stopped)
    assert status == 75
    assert f"step {saved_steps(workdir)[-1]} is saved: run the same command again to go on" in errors

    four = ["--processes", "4", "--devices-per-process", "1"]
    assert ended(tiny.start_locally(workdir, four, "--config.mesh.data=4"))[0] == 0
    assert steps(workdir) == steps(whole)
    np.testing.assert_allclose(losses(workdir), losses(whole), rtol=LAYER)


@pytest.mark.long
def test_a_process_that_hangs_is_named(tiny: Runs, tmp_path: Path) -> None:
    address = {"MMJAX_COORDINATOR": f"127.0.0.1:{free_port()}", "MMJAX_NUM_PROCESSES": "2"}
    waits = "--config.processes.stall_secs=60"
    started = [
        tiny.start(
            tmp_path, MESH, waits, fault="hang data 4" if process else "", MMJAX_PROCESS_ID=str(process), **address
        )
        for process in range(2)
    ]
    for status, errors in map(ended, started):
        assert status == 75
        assert "stopped: process 1 (" in errors
        assert "does not go on: it has been doing data at step 4 for 6" in errors
        assert "while the first is doing step at step " in errors


@pytest.mark.long
def test_a_damaged_checkpoint_is_set_aside_by_all(tiny: Runs, tmp_path: Path) -> None:
    """One start finds it, the next goes on from the one before it."""
    workdir = tmp_path / "run"
    assert ended(tiny.start_locally(workdir, TWO, MESH, "--config.train.num_steps=6"))[0] == 0
    damage(largest_file(workdir, 6), "bit")

    status, errors = ended(tiny.start_locally(workdir, TWO, MESH))
    assert status == 0
    assert "the next start goes on from the one before it" in errors
    assert "starting again (1 of 3)" in errors
    assert (workdir / "damaged_checkpoints" / "6").is_dir()
    assert steps(workdir) == list(range(1, 9))


def two_refused(tiny: Runs, workdir: Path, *each: tuple[str, Path]) -> list[str]:
    """What two processes say that end with status 2; each has an argument and a folder of its own."""
    address = {"MMJAX_COORDINATOR": f"127.0.0.1:{free_port()}", "MMJAX_NUM_PROCESSES": "2"}
    started = [
        tiny.start(workdir, argument, folder=folder, MMJAX_PROCESS_ID=str(process), **address)
        for process, (argument, folder) in enumerate(each)
    ]
    ends = [ended(process) for process in started]
    assert [status for status, _ in ends] == [2, 2], ends
    return [errors for _, errors in ends]


def test_processes_with_other_configs_are_refused(tiny: Runs, tmp_path: Path) -> None:
    for errors in two_refused(tiny, tmp_path, *((f"--config.train.seed={number}", tmp_path) for number in range(2))):
        assert "error: config.train.seed is 0 on process 0 and 1 on process 1 (" in errors
        assert "give all processes the same command, code, libraries and data" in errors
    assert not list(tmp_path.iterdir())


def test_processes_with_other_data_are_refused(tiny: Runs, tmp_path: Path) -> None:
    """The same path, and on one host another caption under it."""
    hosts = tmp_path / "first", tmp_path / "second"
    for host, word in zip(hosts, ("thing", "thong"), strict=True):
        write_image_folder(host / "images", word)
    for errors in two_refused(tiny, tmp_path / "run", *(("--data=imagefolder:images", host) for host in hosts)):
        assert "error: data.record 0 is " in errors
        assert "on process 1 (" in errors
        assert "give all processes the same command, code, libraries and data" in errors
    assert not (tmp_path / "run").exists()
