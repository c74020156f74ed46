"""The host side of training: what happens, and in which order.

The order is a contract. At step s the hooks see the state after s updates (evaluations, then checkpoints); only then is
the next batch fetched and the step run. A hook knows what it has done: one that is called again for the same state, as
a run that goes on does, does nothing. A run that is stopped and continued therefore does everything once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from mmjax.errors import Preempted
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.jsonl import finite, flatten
from mmjax.training.logs import Logs
from mmjax.training.preemption import Noticed, Preemption
from mmjax.training.state import TrainState
from mmjax.training.step import TrainStep
from mmjax.types import Batch, Params


class Hook(Protocol):
    """Something done between steps, on the state after `step` updates; once, however often it is called."""

    @property
    def every_steps(self) -> int:
        """The interval; 0 means only at the end."""
        ...

    def __call__(self, step: int, state: TrainState) -> None: ...


def run(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[Batch],
    evaluate: Hook,
    save: "Save",
    logs: Logs,
    num_steps: int,
    preemption: Preemption,
) -> TrainState:
    """The state after `num_steps` updates, evaluated and saved when that is due and once more at the end.

    Raises:
        Preempted: the machine is taken away; the state is saved.
    """
    step = int(state.step)
    noticed = False
    logs.activity.turn_to("compile", step)
    try:
        while step < num_steps:
            call_due((evaluate, save), step, state)
            save.check()
            if preemption.requested():
                raise Noticed
            with logs.fetching(step):
                batch = next(batches)
            state, metrics = train_step(state, batch)
            step += 1
            logs.activity.turn_to("step", step)
            logs.step(step, metrics)
        logs.flush()
        evaluate(step, state)
    except Noticed:
        noticed = True
    save(step, state)
    save.wait()
    if noticed:
        raise Preempted(f"the machine is taken away; step {step} is saved: run the same command again to go on")
    return state


def call_due(hooks: Sequence[Hook], step: int, state: TrainState) -> None:
    """Calls the hooks whose interval divides `step`; an interval of 0 means only at the end."""
    for hook in hooks:
        if hook.every_steps and step and step % hook.every_steps == 0:
            hook(step, state)


class Evaluate:
    """Runs the evaluations on the parameters of the state and logs their results."""

    def __init__(
        self, evaluate: Callable[[Params], dict[str, Any]], logs: Logs, every_steps: int, evaluated_step: int | None
    ):
        """`evaluated_step` is the last step that an earlier start has evaluated."""
        self._evaluate, self._logs = evaluate, logs
        self.every_steps = every_steps
        self.evaluated_step = evaluated_step
        self.numbers: dict[str, float] = {}
        """The results for the state of `evaluated_step`, by name; empty where an earlier start had them."""

    def __call__(self, step: int, state: TrainState) -> None:
        if step == self.evaluated_step:
            return
        self._logs.flush()
        with self._logs.activity("evaluation", step):
            results = self._evaluate(state.eval_params)
        self._logs.evaluation(step, results)
        self.numbers = {name: number for name, number in flatten(finite(results)) if number is not None}
        self.evaluated_step = step


class Save:
    """Saves the state, once all its losses are known to be finite."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        record: Callable[[], Mapping[str, Any]],
        evaluate: Evaluate,
        logs: Logs,
        every_steps: int,
    ):
        """What `record` says is kept with the state, beside the steps that were made and evaluated."""
        self._checkpoints, self._record, self._evaluate, self._logs = checkpoints, record, evaluate, logs
        self.every_steps = every_steps

    def __call__(self, step: int, state: TrainState) -> None:
        self._logs.flush()
        if self._checkpoints.last_step == step:
            return
        evaluated_step = self._evaluate.evaluated_step
        numbers = self._evaluate.numbers if evaluated_step == step else {}
        record = {**self._record(), "step": step, "evaluated_step": evaluated_step}
        with self._logs.activity("checkpoint", step):
            self._checkpoints.save(step, state, record, numbers)
        self._logs.resume()

    def check(self) -> None:
        """Raises what a save in the background has failed with."""
        self._checkpoints.check()

    def wait(self) -> None:
        """Returns when all that was saved is on disk."""
        self._checkpoints.wait()
