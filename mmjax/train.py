"""Trains a dual encoder: `python -m mmjax.train --config configs/NAME.py --workdir DIR [--config.a.b=value ...]`.

Run again with the same workdir, it goes on from the last checkpoint.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from mmjax import assembly, command_line, flags, workdir
from mmjax.data.bad_records import BadRecords
from mmjax.data.costs import Costs, needs
from mmjax.data.fingerprint import data_fingerprint
from mmjax.data.loader import train_batches
from mmjax.data.mixture import Mixture, changes, continued
from mmjax.data.opened import TrainingData, open_training
from mmjax.data.placement import place
from mmjax.data.sources.specs import KINDS
from mmjax.data.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.experiment import Experiment, check_mesh, from_values
from mmjax.interop.imports import initialised
from mmjax.parallel import processes
from mmjax.parallel.activity import Activity
from mmjax.parallel.compiled import keep_compiled
from mmjax.parallel.host_memory import keep_freed_memory
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.rules import batch_sharding
from mmjax.training import loop
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.cost import step_cost
from mmjax.training.goodput import Ledger, process_activity
from mmjax.training.logs import Logs
from mmjax.training.metrics import MetricsWriter, NullWriter
from mmjax.training.preemption import Preemption
from mmjax.training.profile import TraceWindow
from mmjax.training.program import Program
from mmjax.training.progress import ProgressBar
from mmjax.training.state import TrainState
from mmjax.types import Batch
from mmjax.versions import versions

FLAGS = {
    "workdir": "folder of the run: checkpoints, logs, report",
    "data": f"data to train on, in place of the config's: {', '.join(KINDS)}",
}
SWITCHES = {
    "accept_new_data": "go on from the last checkpoint with other data, or other weights of it, than before",
}


def main(arguments: Sequence[str]) -> None:
    values = flags.parse_flags("mmjax.train", arguments, FLAGS, SWITCHES)
    experiment = from_values(flags.require(values, "config", "mmjax.train"))
    if values["data"] is not None:
        experiment = assembly.with_source(experiment, values["data"])
    directory = Path(flags.require(values, "workdir", "mmjax.train"))
    train(experiment, directory, accept_new_data=values["accept_new_data"])


def train(experiment: Experiment, directory: Path, *, accept_new_data: bool = False) -> TrainState:
    """The final state of the run in `directory`, which is continued where it has a checkpoint.

    It goes on with other data than it was started with only where that is accepted.

    Raises:
        UserError: the config, the data, the mesh or the workdir do not fit; the loss is not finite; the disk is full.
        StartAgain: the machine is taken away, or not all processes of the run are there.
    """
    activity = process_activity()
    said = {"config": experiment.to_dict(), "versions": versions()}
    with processes.joined(experiment.processes, said, activity, print) as company:
        return train_together(experiment, directory, company, activity, accept_new_data)


class Parts(NamedTuple):
    """What a run is made of, before it has a state."""

    experiment: Experiment
    directory: Path
    data: TrainingData
    tokenizer: Tokenizer
    fingerprint: Mapping[str, str]
    mesh: jax.sharding.Mesh
    activity: Activity
    accept_new_data: bool


def train_together(
    experiment: Experiment,
    directory: Path,
    company: processes.Company,
    activity: Activity,
    accept_new_data: bool = False,
) -> TrainState:
    """What `train` returns, once all processes of the run are there."""
    keep_freed_memory()
    mesh = make_mesh(experiment.mesh)
    check_mesh(experiment, mesh)
    # All that can be wrong is opened before the workdir is claimed, so that the corrected command may use it.
    data = open_training(experiment.data)
    tokenizer = assembly.load_tokenizer(experiment)
    fingerprint = assembly.fingerprint(experiment, tokenizer)
    company.agree("data", {**fingerprint, "data": data_fingerprint(data.records)})
    parts = Parts(experiment, directory, data, tokenizer, fingerprint, mesh, activity, accept_new_data)
    with jax.set_mesh(mesh), Preemption() as preemption:
        program = assembly.program(experiment, mesh)
        encoders = assembly.encoders(experiment, program.model.graphdef, mesh)
        evaluation = assembly.Evaluation(experiment, tokenizer, encoders, directory, preemption.until_noticed)
        may_change = workdir.DATA_KEYS if accept_new_data else ()
        workdir.claim(
            directory, experiment.to_dict(), fingerprint, writes=jax.process_index() == 0, may_change=may_change
        )
        keep_compiled(directory / workdir.COMPILED)
        with contextlib.closing(Checkpoints(directory / workdir.CHECKPOINTS, experiment.checkpoint)) as checkpoints:
            return go_on(parts, program, evaluation, checkpoints, preemption)


def go_on(
    parts: Parts,
    program: Program,
    evaluation: assembly.Evaluation,
    checkpoints: Checkpoints,
    preemption: Preemption,
) -> TrainState:
    """The state after all steps, from that of the last checkpoint."""
    experiment = parts.experiment
    state, record = first_state(experiment, program, checkpoints)
    bad_records = opened_bad_records(parts, record["skipped"])
    mixture = mixture_from(parts, record.get("mixture"), int(state.step))
    costs = Costs()
    batches = global_batches(parts, mixture, bad_records, int(state.step), costs)
    with opened_logs(parts, program, checkpoints, int(state.step), costs) as logs:
        evaluate = loop.Evaluate(evaluation, logs, experiment.evals.every_steps, record["evaluated_step"])
        kept = functools.partial(kept_with_state, parts, mixture, bad_records)
        save = loop.Save(checkpoints, kept, evaluate, logs, experiment.checkpoint.every_steps)
        state = loop.run(state, program.step, batches, evaluate, save, logs, experiment.train.num_steps, preemption)
        say_end(logs, parts.directory, experiment)
    return state


def first_state(
    experiment: Experiment, program: Program, checkpoints: Checkpoints
) -> tuple[TrainState, Mapping[str, Any]]:
    """The state and record of the last checkpoint that is whole, or those of a new run."""
    if checkpoints.last_step is not None:
        return checkpoints.restore(program.abstract_state)
    new: Mapping[str, Any] = {"evaluated_step": None, "skipped": [], "mixture": None}
    if not experiment.init.is_given:
        return program.init(), new
    say = print if jax.process_index() == 0 else _say_nothing
    return program.init_from(initialised(program.init_params(), experiment.init, experiment.model, say)), new


def _say_nothing(line: str) -> None:
    del line


def kept_with_state(parts: Parts, mixture: Mixture, bad_records: BadRecords) -> dict[str, Any]:
    """What a checkpoint says beside the state; all processes ask together."""
    return {
        "config": parts.experiment.to_dict(),
        "fingerprint": dict(parts.fingerprint),
        "versions": versions(),
        "mixture": mixture.to_dict(),
        "skipped": processes.gathered(bad_records.skipped),
    }


def mixture_from(parts: Parts, kept: Mapping[str, Any] | None, step: int) -> Mixture:
    """What the run reads from `step` on: what its checkpoint says, or, where that is accepted, the data of now.

    Raises:
        UserError: the data is not that of the checkpoint.
    """
    if kept is None:
        return parts.data.mixture
    before = Mixture.from_dict(kept)
    found = changes(before, parts.data.parts)
    if not found:
        return before
    if not parts.accept_new_data:
        raise UserError(
            f"the data is not what this run was trained on ({'; '.join(found)}): put it back, or give "
            f"--accept_new_data to go on with it from step {step}"
        )
    after = continued(before, parts.data.parts, step * parts.experiment.data.batch_size)
    if jax.process_index() == 0:
        workdir.add_data_change(parts.directory, step, found, before.to_dict(), after.to_dict())
    return after


def opened_bad_records(parts: Parts, skipped: Iterable[int]) -> BadRecords:
    """The list of what this process cannot use, with the positions that the run has skipped before."""
    path = workdir.bad_records(parts.directory, process=jax.process_index())
    return BadRecords(len(parts.data.records), parts.experiment.data.max_bad_share, path, skipped)


def global_batches(
    parts: Parts, mixture: Mixture, bad_records: BadRecords, start_step: int, costs: Costs
) -> Iterator[Batch]:
    """The batches of the steps from `start_step` on, on the devices of the mesh; what they take is added to `costs`."""
    host_batches = train_batches(
        parts.experiment.data,
        parts.data.records,
        parts.tokenizer,
        seed=parts.experiment.train.seed,
        start_step=start_step,
        num_steps=parts.experiment.train.num_steps,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        bad_records=bad_records,
        mixture=mixture,
        costs=costs,
    )
    sharding = batch_sharding(parts.mesh)
    return (place(batch, sharding) for batch in host_batches)


@contextlib.contextmanager
def opened_logs(
    parts: Parts, program: Program, checkpoints: Checkpoints, start_step: int, costs: Costs
) -> Iterator[Logs]:
    """The logs of the run; only the first process writes and shows them."""
    experiment, directory, activity = parts.experiment, parts.directory, parts.activity
    config, num_steps = experiment.logs, experiment.train.num_steps
    is_first = jax.process_index() == 0
    written = experiment.to_dict()
    writer = MetricsWriter(directory, start_step, config.metrics, written) if is_first else NullWriter()
    with ProgressBar(num_steps, start_step, Console(quiet=not is_first)) as progress:
        logs = Logs(
            writer,
            progress,
            TraceWindow(config.profile, directory),
            step_cost(program, config.peak_flops_per_sec),
            stop_at_nonfinite=experiment.train.nonfinite == "stop",
            last_checkpoint=lambda: checkpoints.last_step,
            activity=activity,
            ledger=Ledger(directory, activity, start_step) if is_first else None,
            input_needs=lambda steps: needs(costs, steps * experiment.data.batch_size / jax.process_count()),
        )
        try:
            yield logs
        finally:
            logs.close()


def say_end(logs: Logs, directory: Path, experiment: Experiment) -> None:
    """What was reached, where it lies, and what to run next."""
    logs.say(logs.input_verdict)
    logs.say(f"trained {experiment.train.num_steps} steps; checkpoints, logs and results lie in {directory}")
    logs.say(f"next: python -m mmjax.evaluate --workdir {directory}")


if __name__ == "__main__":
    command_line.run(main)
