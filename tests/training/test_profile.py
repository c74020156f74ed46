import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.training import peak
from mmjax.training.peak import measure_matmul, peak_flops_per_sec
from mmjax.training.profile import Delayed, ProfileConfig, Slowness, StepTimer, TraceWindow, verdict


@pytest.mark.parametrize(
    ("kind", "flops_per_sec"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA L40S", 362e12),
    ],
)
def test_the_longest_fitting_kind_gives_the_peak_of_all_devices(kind: str, flops_per_sec: float) -> None:
    assert peak_flops_per_sec(kind, 8).flops_per_sec == 8 * flops_per_sec


def test_the_config_wins_and_an_unknown_kind_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "measure_matmul", lambda: 1e11)
    assert peak_flops_per_sec("TPU v4", 2, override=1e12) == (2e12, "the config")
    assert peak_flops_per_sec("Accelerator X", 2).flops_per_sec == 2e11
    # Virtual CPU devices share the cores of one machine.
    assert peak_flops_per_sec("cpu", 8).flops_per_sec == 1e11


def test_a_measured_rate_is_a_positive_number() -> None:
    assert 0 < measure_matmul(size=64, times=2) < 1e15


class LaunchedStep:
    """Stands for the output of a step that is still running, or no longer."""

    def __init__(self, ready: bool):
        self.is_ready = lambda: ready


@pytest.mark.parametrize(("ready", "waits"), [(True, True), (False, False)])
def test_a_wait_counts_only_while_the_devices_are_idle(ready: bool, waits: bool) -> None:
    timer = StepTimer()
    with timer.waiting_for_data(LaunchedStep(ready)):
        time.sleep(0.02)
    timer.step()
    assert timer.step_secs >= 0.02
    assert (timer.data_wait_share > 0.5) == waits


def test_the_window_forgets_old_steps_and_what_restart_leaves_out() -> None:
    timer = StepTimer(window=2)
    assert (timer.step_secs, timer.data_wait_share) == (0.0, 0.0)
    time.sleep(0.02)
    timer.restart()
    for _ in range(3):
        timer.step()
    assert timer.step_secs < 0.01


def test_the_verdict_names_the_remedy_only_when_input_starves() -> None:
    assert verdict(0.01) == "input keeps up: the step waited 1% of the time for data"
    assert "37%" in verdict(0.37)
    assert "raise data.num_threads" in verdict(0.37)


def test_delayed_values_come_one_step_late_and_on_the_host() -> None:
    delayed = Delayed()
    assert delayed.put(1, {"loss": jnp.float32(0.5)}) is None
    assert delayed.put(2, {"loss": jnp.float32(0.25)}) == (1, {"loss": np.float32(0.5)})
    assert delayed.take() == (2, {"loss": np.float32(0.25)})
    assert delayed.take() is None


@pytest.mark.parametrize(("num_steps", "recorded"), [(0, False), (2, True), (50, True)])
def test_the_trace_holds_the_window_even_if_the_run_ends_inside(tmp_path: Path, num_steps: int, recorded: bool) -> None:
    window = TraceWindow(ProfileConfig(start_step=1, num_steps=num_steps), tmp_path)
    launched = None
    for step in range(5):
        window.before_step(step, launched)
        launched = jnp.zeros(8) + step
    window.close(launched)
    assert bool(list(tmp_path.glob("profile/**/*.xplane.pb"))) == recorded


@pytest.mark.parametrize(
    ("waited", "cause"), [(9.0, "waiting for data"), (1.0, "the step itself, or another process that it waits for")]
)
def test_a_step_of_ten_times_the_median_is_said_to_be_slow(
    waited: float, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timer = StepTimer()

    def step(secs: float, waited_secs: float) -> Slowness | None:
        with timer.waiting_for_data():
            now[0] += waited_secs
        now[0] += secs - waited_secs
        return timer.step()

    assert step(50.0, 0.0) is None
    assert [step(1.0, 0.0) for _ in range(20)] == [None] * 20
    assert step(9.9, 0.0) is None
    assert str(step(12.0, waited)) == f"12.0 s, 12 times the median: {cause}"
