"""Where the numbers of a run go: JSON lines always, TensorBoard and Weights & Biases as the config asks."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from mmjax.errors import UserError
from mmjax.training.jsonl import StepLines, flatten

METRICS_FILE = "metrics.jsonl"
EVALS_FILE = "evals.jsonl"


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases. In mode "offline" nothing leaves the machine; `wandb sync` uploads it later.

    An empty `name` lets the service choose one; an empty `entity` is the account's default.
    """

    enabled: bool = False
    project: str = "mmjax"
    entity: str = ""
    name: str = ""
    mode: Literal["online", "offline"] = "online"


@dataclass(frozen=True)
class MetricsConfig:
    """`tensorboard`: event files in WORKDIR/tensorboard."""

    tensorboard: bool = True
    wandb: WandbConfig = field(default_factory=WandbConfig)


class Sink(Protocol):
    """Something that takes the numbers of a step."""

    def write(self, step: int, values: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class MetricsWriter:
    """Writes `metrics.jsonl` and `evals.jsonl` in the workdir, and passes the numbers on to the sinks of the config.

    The writer of a resumed run drops what an earlier run wrote of later steps, so that each step stands once. One
    process of a run writes: the others are given `NullWriter`.
    """

    def __init__(
        self, workdir: Path, start_step: int, config: MetricsConfig, run_config: Mapping[str, Any] | None = None
    ):
        """Opens the files, keeping the lines up to and including `start_step`.

        Args:
            workdir: where the files lie; made if it is not there.
            start_step: the number of updates that the state to continue from has seen.
            config: which sinks to open beside the files.
            run_config: the config of the run, which Weights & Biases shows beside its numbers.

        Raises:
            UserError: Weights & Biases is asked for and not installed, or a file holds a line that is not JSON.
        """
        self._sinks = list(_open_sinks(workdir, start_step, config, run_config or {}))
        self._steps = StepLines(workdir / METRICS_FILE, start_step)
        self._evals = StepLines(workdir / EVALS_FILE, start_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of one step, once a step; names with `/` group in the viewers."""
        self._steps.write(step, values)
        for sink in self._sinks:
            sink.write(step, values)

    def write_evals(self, step: int, results: Mapping[str, Any]) -> None:
        """Results of the evaluations on the state of `step`: nested dicts, as `evals.suite.as_json` gives them."""
        self._evals.write(step, results)
        for sink in self._sinks:
            sink.write(step, dict(flatten(results, "eval")))

    def close(self) -> None:
        for sink in (self._steps, self._evals, *self._sinks):
            sink.close()


class NullWriter:
    """The writer of the processes that write nothing."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        del step, values

    def write_evals(self, step: int, results: Mapping[str, Any]) -> None:
        del step, results

    def close(self) -> None:
        pass


class _TensorBoard:
    def __init__(self, workdir: Path, start_step: int):
        from tensorboardX import SummaryWriter  # pulls in protobuf, which a run without it can spare

        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            # The viewer allows no "@" in names, and tensorboardX would say so at every step.
            self._writer.add_scalar(name.replace("@", "_at_"), float(value), step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """Logs with a `step` of its own: the service refuses to step back, as a resumed run must."""

    def __init__(self, workdir: Path, config: WandbConfig, run_config: Mapping[str, Any]):
        try:
            import wandb
        except ModuleNotFoundError as missing:
            raise UserError("logs.metrics.wandb.enabled needs wandb: pip install 'mmjax[wandb]'") from missing
        names = {"project": config.project, "entity": config.entity or None, "name": config.name or None}
        run_id = _run_id(workdir / "wandb_run_id.txt")
        self._run = wandb.init(
            **names, mode=config.mode, dir=str(workdir), id=run_id, resume="allow", config=dict(run_config)
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


def _open_sinks(workdir: Path, start_step: int, config: MetricsConfig, run_config: Mapping[str, Any]) -> Iterator[Sink]:
    # First the one that may be missing, so that nothing is left open.
    if config.wandb.enabled:
        yield _WeightsAndBiases(workdir, config.wandb, run_config)
    if config.tensorboard:
        yield _TensorBoard(workdir, start_step)


def _run_id(path: Path) -> str:
    """An id that stays with the workdir, so that a resumed run goes on in the same charts."""
    if not path.exists():
        path.write_text(uuid.uuid4().hex)
    return path.read_text()
