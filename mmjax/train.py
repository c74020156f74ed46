"""Trains a dual encoder: `python -m mmjax.train --config configs/NAME.py --workdir DIR [--config.a.b=value ...]`.

Run again with the same workdir, it goes on from the last checkpoint.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from mmjax import assembly, command_line, workdir
from mmjax.data.bad_records import BadRecords
from mmjax.data.fingerprint import data_fingerprint
from mmjax.data.loader import train_batches
from mmjax.data.placement import place
from mmjax.data.records import Source
from mmjax.data.tokenizer import Tokenizer
from mmjax.experiment import Experiment, check_mesh, from_values
from mmjax.parallel import processes
from mmjax.parallel.activity import Activity
from mmjax.parallel.compiled import keep_compiled
from mmjax.parallel.host_memory import keep_freed_memory
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.rules import batch_sharding
from mmjax.training import loop
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.cost import step_cost
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
    "data": "data to train on, in place of the config's: emoji, imagefolder:DIR or tfds:DIR",
}


def main(arguments: Sequence[str]) -> None:
    values = command_line.parse_flags("mmjax.train", arguments, FLAGS)
    experiment = from_values(command_line.require(values, "config", "mmjax.train"))
    if values["data"] is not None:
        experiment = assembly.with_source(experiment, values["data"])
    train(experiment, Path(command_line.require(values, "workdir", "mmjax.train")))


def train(experiment: Experiment, directory: Path) -> TrainState:
    """The final state of the run in `directory`, which is continued where it has a checkpoint.

    Raises:
        UserError: the config, the data, the mesh or the workdir do not fit; the loss is not finite; the disk is full.
        StartAgain: the machine is taken away, or not all processes of the run are there.
    """
    activity = Activity()
    said = {"config": experiment.to_dict(), "versions": versions()}
    with processes.joined(experiment.processes, said, activity, print) as company:
        return train_together(experiment, directory, company, activity)


def train_together(
    experiment: Experiment, directory: Path, company: processes.Company, activity: Activity
) -> TrainState:
    """What `train` returns, once all processes of the run are there."""
    keep_freed_memory()
    mesh = make_mesh(experiment.mesh)
    check_mesh(experiment, mesh)
    # All that can be wrong is opened before the workdir is claimed, so that the corrected command may use it.
    source = assembly.open_split(experiment.data, experiment.data.split)
    tokenizer = assembly.load_tokenizer(experiment)
    fingerprint = assembly.fingerprint(experiment, tokenizer)
    company.agree("data", {**fingerprint, "data": data_fingerprint(source)})
    with jax.set_mesh(mesh):
        program = assembly.program(experiment, mesh)
        encoders = assembly.encoders(program.model.graphdef, mesh)
        with Preemption() as preemption:
            evaluation = assembly.Evaluation(experiment, tokenizer, encoders, directory, preemption.until_noticed)
            workdir.claim(directory, experiment.to_dict(), fingerprint, writes=jax.process_index() == 0)
            keep_compiled(directory / workdir.COMPILED)
            with contextlib.closing(Checkpoints(directory / workdir.CHECKPOINTS, experiment.checkpoint)) as checkpoints:
                state, record = first_state(program, checkpoints)
                batches = global_batches(experiment, source, tokenizer, mesh, directory, int(state.step))
                with opened_logs(experiment, directory, program, checkpoints, int(state.step), activity) as logs:
                    evaluate = loop.Evaluate(evaluation, logs, experiment.evals.every_steps, record["evaluated_step"])
                    kept = {"config": experiment.to_dict(), "fingerprint": fingerprint, "versions": versions()}
                    save = loop.Save(checkpoints, kept, evaluate, logs, experiment.checkpoint.every_steps)
                    num_steps = experiment.train.num_steps
                    state = loop.run(state, program.step, batches, evaluate, save, logs, num_steps, preemption)
                    say_end(logs, directory, experiment)
    return state


def first_state(program: Program, checkpoints: Checkpoints) -> tuple[TrainState, Mapping[str, Any]]:
    """The state and record of the last checkpoint that is whole, or those of a new run."""
    if checkpoints.last_step is None:
        return program.init(), {"evaluated_step": None}
    return checkpoints.restore(program.abstract_state)


def global_batches(
    experiment: Experiment,
    source: Source,
    tokenizer: Tokenizer,
    mesh: jax.sharding.Mesh,
    directory: Path,
    start_step: int,
) -> Iterator[Batch]:
    """The batches of the steps from `start_step` on, on the devices of `mesh`."""
    data = experiment.data
    unusable = workdir.bad_records(directory, process=jax.process_index())
    host_batches = train_batches(
        data,
        source,
        tokenizer,
        seed=experiment.train.seed,
        start_step=start_step,
        num_steps=experiment.train.num_steps,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        bad_records=BadRecords(len(source), data.max_bad_share, unusable),
    )
    sharding = batch_sharding(mesh)
    return (place(batch, sharding) for batch in host_batches)


@contextlib.contextmanager
def opened_logs(
    experiment: Experiment,
    directory: Path,
    program: Program,
    checkpoints: Checkpoints,
    start_step: int,
    activity: Activity,
) -> Iterator[Logs]:
    """The logs of the run; only the first process writes and shows them."""
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
