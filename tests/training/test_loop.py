"""The order of a run, and what a loss that is not finite does; the step and the logs' outlets are fakes."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import pytest

from mmjax.errors import Preempted, UserError
from mmjax.parallel.activity import Activity
from mmjax.training import loop
from mmjax.training.logs import Cost, Logs
from mmjax.training.metrics import NullWriter
from mmjax.training.preemption import Noticed


class State:
    """Stands for a TrainState: it knows how many updates it has seen."""

    def __init__(self, step: int):
        self.step, self.eval_params = step, f"params {step}"


class Recorder:
    """Logs, hooks and batches that write down what happens, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.activity = Activity()

    def fetching(self, step: int) -> Any:
        self.events.append(f"fetch {step}")
        return nullcontext()

    def step(self, step: int, metrics: Any) -> None:
        self.events.append(f"log {step}")

    def flush(self) -> None:
        self.events.append("flush")

    def resume(self) -> None:
        self.resumed = True

    def evaluation(self, step: int, results: Any) -> None:
        self.events.append(f"evaluation {step} of {results}")

    def train_step(self, state: State, batch: int) -> tuple[State, dict[str, Any]]:
        self.events.append(f"step on batch {batch}")
        return State(state.step + 1), {}

    def run(self, start: int, num_steps: int, evaluate: int, save: int, notice: "Notice | None" = None) -> State:
        """A run that evaluates and saves so often."""
        hooks = Hook(self, "evaluate", evaluate), Hook(self, "save", save)
        data = iter(range(start, num_steps))
        return loop.run(State(start), self.train_step, data, *hooks, self, num_steps, notice or Notice(None))


class Hook:
    """An evaluation or a checkpoint, done once for each state."""

    def __init__(self, recorder: Recorder, name: str, every_steps: int):
        self.recorder, self.name, self.every_steps = recorder, name, every_steps
        self.last_step: int | None = None

    def __call__(self, step: int, state: State) -> None:
        assert state.step == step
        if step != self.last_step:
            self.recorder.events.append(f"{self.name} {step}")
        self.last_step = step

    def check(self) -> None: ...

    def wait(self) -> None:
        self.recorder.events.append("wait")


class Notice:
    """A notice of preemption, heard when it is asked for the `call`-th time."""

    def __init__(self, call: int | None):
        self.calls, self.call = 0, call

    def requested(self) -> bool:
        self.calls += 1
        return self.calls == self.call


def test_hooks_see_the_old_state_before_the_next_batch_is_fetched() -> None:
    recorder = Recorder()
    final = recorder.run(0, 3, evaluate=2, save=1)
    assert final.step == 3
    assert recorder.events == [
        *("fetch 0", "step on batch 0", "log 1", "save 1"),
        *("fetch 1", "step on batch 1", "log 2", "evaluate 2", "save 2"),
        *("fetch 2", "step on batch 2", "log 3", "flush", "evaluate 3", "save 3", "wait"),
    ]


def test_a_run_that_goes_on_repeats_nothing() -> None:
    whole, first, second = Recorder(), Recorder(), Recorder()
    whole.run(0, 4, evaluate=0, save=2)
    with pytest.raises(Preempted, match="step 2 is saved: run the same command again"):
        first.run(0, 4, evaluate=0, save=2, notice=Notice(3))
    second.run(2, 4, evaluate=0, save=0)
    ends = ("flush", "wait")
    assert [event for event in first.events + second.events if event not in ends] == [
        event for event in whole.events if event not in ends
    ]


def test_a_notice_between_steps_saves_the_state_it_finds() -> None:
    recorder = Recorder()
    with pytest.raises(Preempted, match="step 1 is saved"):
        recorder.run(0, 4, evaluate=0, save=3, notice=Notice(2))
    assert recorder.events == ["fetch 0", "step on batch 0", "log 1", "save 1", "wait"]


def test_a_save_that_failed_ends_the_run_before_the_next_batch() -> None:
    recorder, save = Recorder(), Hook(Recorder(), "save", 0)

    def check() -> None:
        if "log 2" in recorder.events:
            raise UserError("no space left")

    save.check = check
    with pytest.raises(UserError, match="no space left"):
        loop.run(
            State(0),
            recorder.train_step,
            iter(range(4)),
            Hook(recorder, "evaluate", 0),
            save,
            recorder,
            4,
            Notice(None),
        )
    assert recorder.events[-1] == "log 2"


def test_a_notice_ends_an_evaluation_which_is_made_up_for() -> None:
    first, second = Recorder(), Recorder()

    def interrupted(step: int, state: State) -> None:
        raise Noticed

    interrupted.every_steps = 2
    save = Hook(first, "save", 2)
    with pytest.raises(Preempted, match="step 2 is saved"):
        loop.run(State(0), first.train_step, iter(range(4)), interrupted, save, first, 4, Notice(None))
    assert first.events[-2:] == ["save 2", "wait"]
    second.run(2, 3, evaluate=2, save=0)
    assert second.events[:2] == ["evaluate 2", "fetch 2"]


def test_a_finished_run_only_ends_again() -> None:
    recorder = Recorder()
    recorder.run(4, 4, evaluate=0, save=0)
    assert recorder.events == ["flush", "evaluate 4", "save 4", "wait"]


def test_an_evaluation_runs_on_the_averaged_parameters_after_the_log_is_flushed() -> None:
    recorder = Recorder()
    evaluate = loop.Evaluate(lambda params: {"of": {params: 0.5}}, recorder, 2, evaluated_step=None)
    evaluate(4, State(4))
    evaluate(4, State(4))
    assert recorder.events == ["flush", "evaluation 4 of {'of': {'params 4': 0.5}}"]
    assert (evaluate.evaluated_step, evaluate.numbers) == (4, {"of/params 4": 0.5})


def test_an_evaluation_of_an_earlier_start_is_not_repeated() -> None:
    recorder = Recorder()
    loop.Evaluate(lambda params: {}, recorder, 2, evaluated_step=4)(4, State(4))
    assert recorder.events == []


class FakeCheckpoints:
    def __init__(self, last_step: int | None):
        self.last_step, self.saved = last_step, []

    def save(self, step: int, state: State, record: Any, numbers: Any) -> None:
        self.saved.append(step)
        self.record, self.numbers = record, numbers

    def check(self) -> None: ...

    def wait(self) -> None: ...


def no_evaluation(logs: Any) -> loop.Evaluate:
    return loop.Evaluate(lambda params: {}, logs, 0, evaluated_step=None)


@pytest.mark.parametrize(("last_step", "saved"), [(None, [4]), (2, [4]), (4, [])])
def test_a_state_is_saved_once(last_step: int | None, saved: list[int]) -> None:
    recorder, checkpoints = Recorder(), FakeCheckpoints(last_step)
    loop.Save(checkpoints, dict, no_evaluation(recorder), recorder, 2)(4, State(4))
    assert recorder.events == ["flush"]
    assert checkpoints.saved == saved


def test_the_time_of_a_save_is_no_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    logs, checkpoints = real_logs(stop=True, last_checkpoint=None), FakeCheckpoints(None)
    monkeypatch.setattr(checkpoints, "save", lambda *_: now.__setitem__(0, now[0] + 100.0))

    def one_second(state: State, batch: int) -> tuple[State, dict[str, Any]]:
        now[0] += 1.0
        return State(state.step + 1), {name: jnp.float32(1) for name in ("loss", "grad_norm")}

    evaluate = no_evaluation(logs)
    loop.run(
        State(0),
        one_second,
        batches(),
        evaluate,
        loop.Save(checkpoints, dict, evaluate, logs, 2),
        logs,
        7,
        Notice(None),
    )
    assert logs._timer.step_secs == 1.0


@pytest.mark.parametrize(("evaluated_step", "numbers"), [(4, {"r@1": 0.5}), (2, {})])
def test_a_checkpoint_has_the_numbers_of_its_own_state(evaluated_step: int, numbers: dict[str, float]) -> None:
    recorder, checkpoints = Recorder(), FakeCheckpoints(None)
    evaluate = loop.Evaluate(lambda params: {"r@1": 0.5}, recorder, 2, evaluated_step=None)
    evaluate(evaluated_step, State(evaluated_step))
    loop.Save(checkpoints, lambda: {"config": 1}, evaluate, recorder, 2)(4, State(4))
    assert checkpoints.record == {"config": 1, "step": 4, "evaluated_step": evaluated_step}
    assert checkpoints.numbers == numbers


class Progress:
    def update(self, step: int, loss: float, examples_per_sec: float) -> None: ...

    def say(self, text: str) -> None: ...


class Trace:
    def before_step(self, step: int, launched: Any) -> None: ...

    def close(self, launched: Any) -> None: ...


def real_logs(*, stop: bool, last_checkpoint: int | None, **options: Any) -> Logs:
    cost = Cost(8, {"image": 1, "text": 1}, 6, 1e9)
    options |= {"stop_at_nonfinite": stop, "last_checkpoint": lambda: last_checkpoint}
    return Logs(NullWriter(), Progress(), Trace(), cost, **options)


def test_an_input_that_starves_is_told_what_it_needs() -> None:
    """A step of 0.2 s of which half is waiting would be one of 0.1 s."""
    logs = real_logs(stop=False, last_checkpoint=None, input_needs=lambda steps: f"{steps:.0f} steps/s need 3 cores")
    for share, said in ((0.5, True), (0.01, False)):
        logs._timer = SimpleNamespace(data_wait_share=share, step_secs=0.2)
        assert logs.input_verdict.endswith("; 10 steps/s need 3 cores") == said


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
    evaluate = no_evaluation(logs)
    save = loop.Save(checkpoints, dict, evaluate, logs, 3)
    with pytest.raises(UserError, match=rf"^{term} not finite at step 3; {kept}: lower optim.learning_rate"):
        loop.run(State(0), losing(3, term), batches(), evaluate, save, logs, 9, Notice(None))
    assert checkpoints.saved == []


def run_without_hooks(train_step: Any, logs: Logs, num_steps: int) -> State:
    hooks = Hook(Recorder(), "evaluate", 0), Hook(Recorder(), "save", 0)
    return loop.run(State(0), train_step, batches(), *hooks, logs, num_steps, Notice(None))


def test_the_last_step_is_looked_at_too() -> None:
    with pytest.raises(UserError, match="not finite at step 3"):
        run_without_hooks(losing(3, "loss"), real_logs(stop=True, last_checkpoint=None), 3)


def test_where_such_updates_are_skipped_the_run_goes_on() -> None:
    logs = real_logs(stop=False, last_checkpoint=None)
    assert run_without_hooks(losing(2, "loss"), logs, 5).step == 5
