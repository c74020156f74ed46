"""The order of a run, and what a loss that is not finite does; the step and the logs' outlets are fakes."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import jax.numpy as jnp
import pytest

from mmjax.errors import UserError
from mmjax.training import loop
from mmjax.training.logs import Cost, Logs
from mmjax.training.metrics import NullWriter


class State:
    """Stands for a TrainState: it knows how many updates it has seen."""

    def __init__(self, step: int):
        self.step, self.eval_params = step, f"params {step}"


class Recorder:
    """Logs, hooks and batches that write down what happens, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def fetching(self, step: int) -> Any:
        self.events.append(f"fetch {step}")
        return nullcontext()

    def step(self, step: int, metrics: Any) -> None:
        self.events.append(f"log {step}")

    def flush(self) -> None:
        self.events.append("flush")

    def evaluation(self, step: int, results: Any) -> None:
        self.events.append(f"evaluation {step} of {results}")

    def train_step(self, state: State, batch: int) -> tuple[State, dict[str, Any]]:
        self.events.append(f"step on batch {batch}")
        return State(state.step + 1), {}

    def hook(self, name: str, every_steps: int) -> Callable[..., None]:
        def call(step: int, state: State) -> None:
            assert state.step == step
            self.events.append(f"{name} {step}")

        call.every_steps = every_steps
        return call

    def run(self, start: int, num_steps: int, *hooks: Any) -> State:
        return loop.run(State(start), self.train_step, iter(range(start, num_steps)), hooks, self, num_steps)


def test_hooks_see_the_old_state_before_the_next_batch_is_fetched() -> None:
    recorder = Recorder()
    final = recorder.run(0, 3, recorder.hook("evaluate", 2), recorder.hook("save", 1))
    assert final.step == 3
    assert recorder.events == [
        *("fetch 0", "step on batch 0", "log 1", "save 1"),
        *("fetch 1", "step on batch 1", "log 2", "evaluate 2", "save 2"),
        *("fetch 2", "step on batch 2", "log 3", "flush", "evaluate 3", "save 3"),
    ]


def test_a_run_that_goes_on_repeats_nothing() -> None:
    whole, first, second = Recorder(), Recorder(), Recorder()
    whole.run(0, 4, whole.hook("save", 2))
    first.run(0, 2, first.hook("save", 2))
    second.run(2, 4, second.hook("save", 2))
    assert [event for event in first.events + second.events if event != "flush"] == [
        event for event in whole.events if event != "flush"
    ]


def test_a_finished_run_only_ends_again() -> None:
    recorder = Recorder()
    recorder.run(4, 4, recorder.hook("evaluate", 0))
    assert recorder.events == ["flush", "evaluate 4"]


def test_an_evaluation_runs_on_the_averaged_parameters_after_the_log_is_flushed() -> None:
    recorder = Recorder()
    loop.Evaluate(lambda params: {"of": params}, recorder, 2)(4, State(4))
    assert recorder.events == ["flush", "evaluation 4 of {'of': 'params 4'}"]


class FakeCheckpoints:
    def __init__(self, last_step: int | None):
        self.last_step, self.saved = last_step, []

    def save(self, step: int, state: State, record: Any) -> None:
        self.saved.append(step)


@pytest.mark.parametrize(("last_step", "saved"), [(None, [4]), (2, [4]), (4, [])])
def test_a_state_is_saved_once(last_step: int | None, saved: list[int]) -> None:
    recorder, checkpoints = Recorder(), FakeCheckpoints(last_step)
    loop.Save(checkpoints, {}, recorder, 2)(4, State(4))
    assert recorder.events == ["flush"]
    assert checkpoints.saved == saved


class Progress:
    def update(self, step: int, loss: float, examples_per_sec: float) -> None: ...

    def say(self, text: str) -> None: ...


class Trace:
    def before_step(self, step: int, launched: Any) -> None: ...

    def close(self, launched: Any) -> None: ...


def real_logs(*, stop: bool, last_checkpoint: int | None) -> Logs:
    cost = Cost(8, {"image": 1, "text": 1}, 6, 1e9)
    return Logs(
        NullWriter(), Progress(), Trace(), cost, stop_at_nonfinite=stop, last_checkpoint=lambda: last_checkpoint
    )


def losing(step_of_nan: int, term: str) -> Callable[..., Any]:
    def train_step(state: State, batch: int) -> tuple[State, dict[str, Any]]:
        values = {"loss": 1.0, "loss/sigmoid": 1.0, "grad_norm": 1.0}
        if state.step + 1 >= step_of_nan:
            values[term] = float("nan")
        return State(state.step + 1), {name: jnp.float32(value) for name, value in values.items()}

    return train_step


def batches() -> Iterator[int]:
    yield from range(100)


@pytest.mark.parametrize(
    ("term", "last", "kept"),
    [
        ("loss/sigmoid", 2, "the last good checkpoint is that of step 2"),
        ("grad_norm", None, "there is no checkpoint yet"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run(term: str, last: int | None, kept: str) -> None:
    logs = real_logs(stop=True, last_checkpoint=last)
    checkpoints = FakeCheckpoints(last)
    hook = loop.Save(checkpoints, {}, logs, 3)
    with pytest.raises(UserError, match=rf"^{term} not finite at step 3; {kept}: lower optim.learning_rate"):
        loop.run(State(0), losing(3, term), batches(), [hook], logs, 9)
    assert checkpoints.saved == []


def test_the_last_step_is_looked_at_too() -> None:
    with pytest.raises(UserError, match="not finite at step 3"):
        loop.run(State(0), losing(3, "loss"), batches(), [], real_logs(stop=True, last_checkpoint=None), 3)


def test_where_such_updates_are_skipped_the_run_goes_on() -> None:
    logs = real_logs(stop=False, last_checkpoint=None)
    assert loop.run(State(0), losing(2, "loss"), batches(), [], logs, 5).step == 5
