"""What a run says of itself, step by step: numbers to files and viewers, progress to the person who started it."""

import contextlib
import math
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from mmjax.errors import UserError
from mmjax.parallel.activity import Activity
from mmjax.training.goodput import Ledger
from mmjax.training.metrics import MetricsConfig, MetricsWriter, NullWriter
from mmjax.training.profile import STARVED_SHARE, Delayed, ProfileConfig, Slowness, StepTimer, TraceWindow, verdict
from mmjax.training.progress import ProgressBar

VERDICT_STEPS = 50
"""Steps that are timed before the run says that its input is too slow."""


@dataclass(frozen=True)
class LogsConfig:
    """Where numbers go and what is profiled; `peak_flops_per_sec` of one device, 0 to look it up or measure it."""

    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    profile: ProfileConfig = ProfileConfig()
    peak_flops_per_sec: float = 0.0


class Cost(NamedTuple):
    """What one step asks for and what the devices could give."""

    batch_size: int
    tower_flops: Mapping[str, int]
    """Forward FLOPs of one example, by tower."""
    step_flops: int
    """Model FLOPs of a whole training step."""
    peak_flops_per_sec: float


class Logs:
    """Takes the metrics of each step, one step late so that the host never waits for the step it has just launched."""

    def __init__(
        self,
        writer: MetricsWriter | NullWriter,
        progress: ProgressBar,
        trace: TraceWindow,
        cost: Cost,
        *,
        stop_at_nonfinite: bool,
        last_checkpoint: Callable[[], int | None],
        activity: Activity | None = None,
        ledger: Ledger | None = None,
        input_needs: Callable[[float], str] = lambda _: "",
    ):
        """`input_needs` says what so many steps a second would take of the machine that makes the batches."""
        self._writer, self._progress, self._trace, self._cost = writer, progress, trace, cost
        self._stop_at_nonfinite, self._last_checkpoint = stop_at_nonfinite, last_checkpoint
        self.activity = activity or Activity()
        self._ledger, self._input_needs = ledger, input_needs
        self._timer, self._delayed = StepTimer(), Delayed()
        self._launched: Any = None
        self._timed_steps = 0
        self._said_verdict = False

    @contextlib.contextmanager
    def fetching(self, step: int) -> Iterator[None]:
        """Around the fetch of the batch for the update after `step`."""
        self._trace.before_step(step, self._launched)
        with self.activity("data", step, hidden=self._is_busy), self._timer.waiting_for_data(self._launched):
            yield

    def step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """The metrics of update number `step`, still on the devices.

        Raises:
            UserError: the loss of an earlier step was not finite and the config says to stop.
        """
        self._launched = metrics
        ready = self._delayed.put(step, metrics)
        self._time_step(step)
        if ready is not None:
            self._write(*ready)

    def flush(self) -> None:
        """Writes what is held back, before a checkpoint or an evaluation.

        Raises:
            UserError: as `step`.
        """
        ready = self._delayed.take()
        if ready is not None:
            self._write(*ready)

    def resume(self) -> None:
        """Leaves what happened since `flush` out of the step times."""
        self._timer.restart()

    def evaluation(self, step: int, results: Mapping[str, Any]) -> None:
        """Results of the evaluations on the state after `step` updates."""
        self._writer.write_evals(step, results)
        self.resume()

    def say(self, text: str) -> None:
        self._progress.say(text)

    def close(self) -> None:
        """Ends the trace window and closes the files."""
        self._trace.close(self._launched)
        self._writer.close()
        if self._ledger is not None:
            self._ledger.write()

    @property
    def input_verdict(self) -> str:
        """Whether the input kept up with the devices, and, where it did not, what would."""
        share, secs = self._timer.data_wait_share, self._timer.step_secs
        said = verdict(share)
        if share < STARVED_SHARE or share >= 1:
            return said
        return "; ".join(filter(None, [said, self._input_needs(1 / (secs * (1 - share)))]))

    def _is_busy(self) -> bool:
        """Whether the devices still work on what was launched last."""
        return not all(leaf.is_ready() for leaf in jax.tree.leaves(self._launched))

    def _time_step(self, step: int) -> None:
        """The first step is mostly compilation, and left out."""
        if self._timed_steps:
            slowness = self._timer.step()
            if slowness is not None:
                self._say_slow(step, slowness)
        else:
            self._timer.restart()
        self._timed_steps += 1
        starves = self._timer.data_wait_share > STARVED_SHARE
        if starves and self._timed_steps > VERDICT_STEPS and not self._said_verdict:
            self._said_verdict = True
            self.say(self.input_verdict)

    def _say_slow(self, step: int, slowness: Slowness) -> None:
        """The first process says it of any step; another one where it knows that it is the cause."""
        process = jax.process_index()
        text = f"step {step} on process {process} ({socket.gethostname()}) took {slowness}"
        if process == 0:
            self.say(text)
        elif slowness.waited_for_data:
            print(text, file=sys.stderr)

    def _write(self, step: int, metrics: Mapping[str, Any]) -> None:
        values = {name: float(value) for name, value in metrics.items()} | self._speed()
        self._writer.write(step, values)
        if self._ledger is not None:
            self._ledger.step(step)
        self._progress.update(step, values["loss"], values.get("examples_per_sec", 0.0))
        if self._stop_at_nonfinite:
            self._refuse_nonfinite(step, values)

    def _speed(self) -> dict[str, float]:
        """Rates over the last steps; nothing before the second step, which is the first that is timed."""
        cost, secs = self._cost, self._timer.step_secs
        flops = {f"flops/{tower}": float(count) for tower, count in cost.tower_flops.items()}
        if not secs:
            return flops
        flops_per_sec = cost.step_flops / secs
        return flops | {
            "step_secs": secs,
            "examples_per_sec": cost.batch_size / secs,
            "data_wait_share": self._timer.data_wait_share,
            "model_flops_per_sec": flops_per_sec,
            "mfu": flops_per_sec / cost.peak_flops_per_sec,
        }

    def _refuse_nonfinite(self, step: int, values: Mapping[str, float]) -> None:
        terms = [name for name in values if name.startswith("loss/") or name in ("loss", "grad_norm")]
        broken = [name for name in terms if not math.isfinite(values[name])]
        if broken:
            last = self._last_checkpoint()
            kept = "there is no checkpoint yet" if last is None else f"the last good checkpoint is that of step {last}"
            raise UserError(
                f"{', '.join(broken)} not finite at step {step}; {kept}: lower optim.learning_rate or set "
                "optim.clip_norm, or leave such updates out with train.nonfinite='skip'"
            )
