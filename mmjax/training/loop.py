"""The host side of training: what happens, and in which order.

The order is a contract. At step s the hooks see the state after s updates (evaluations, then checkpoints); only then is
the next batch fetched and the step run. A run that is stopped and continued therefore does everything once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mmjax.training.checkpoint import Checkpoints
from mmjax.training.logs import Logs
from mmjax.training.state import TrainState
from mmjax.training.step import TrainStep
from mmjax.types import Batch, Params


class Hook(Protocol):
    """Something done between steps, on the state after `step` updates."""

    @property
    def every_steps(self) -> int:
        """The interval; 0 means only at the end."""
        ...

    def __call__(self, step: int, state: TrainState) -> None: ...


def run(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[Batch],
    hooks: Sequence[Hook],
    logs: Logs,
    num_steps: int,
) -> TrainState:
    """The state after `num_steps` updates, with every hook called when it is due and once more at the end."""
    start_step = int(state.step)
    for step in range(start_step, num_steps):
        if step > start_step:
            call_due(hooks, step, state)
        with logs.fetching(step):
            batch = next(batches)
        state, metrics = train_step(state, batch)
        logs.step(step + 1, metrics)
    logs.flush()
    for hook in hooks:
        hook(num_steps, state)
    return state


def call_due(hooks: Sequence[Hook], step: int, state: TrainState) -> None:
    """Calls the hooks whose interval divides `step`; an interval of 0 means only at the end."""
    for hook in hooks:
        if hook.every_steps and step % hook.every_steps == 0:
            hook(step, state)


@dataclass(frozen=True)
class Evaluate:
    """Runs the evaluations on the parameters of the state and logs their results."""

    evaluate: Callable[[Params], dict[str, Any]]
    logs: Logs
    every_steps: int

    def __call__(self, step: int, state: TrainState) -> None:
        self.logs.flush()
        self.logs.evaluation(step, self.evaluate(state.eval_params))


@dataclass(frozen=True)
class Save:
    """Saves the state, once all its losses are known to be finite."""

    checkpoints: Checkpoints
    record: dict[str, Any]
    logs: Logs
    every_steps: int

    def __call__(self, step: int, state: TrainState) -> None:
        self.logs.flush()
        if self.checkpoints.last_step != step:
            self.checkpoints.save(step, state, self.record)
