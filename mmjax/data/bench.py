"""What the input pipeline gives, and what it costs, on this machine: `python -m mmjax.data.bench --source SPEC`.

The settings are those of `--config FILE`, of a run (`--workdir DIR`), or, without either, those of photos that are cut
at random to 224 pixels; `--config.data.a=value` overrides them. Nothing is trained.
"""

import itertools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from mmjax import ending, flags
from mmjax.config import from_dict, to_config_dict
from mmjax.data.augment import AugmentConfig
from mmjax.data.bad_records import BadRecords
from mmjax.data.config import DataConfig
from mmjax.data.cores import idle_secs, num_cores
from mmjax.data.costs import STAGES, VERBS, Costs, needs
from mmjax.data.loader import train_batches
from mmjax.data.opened import open_training
from mmjax.data.preprocess import PreprocessConfig
from mmjax.data.tokenizer import Tokenizer
from mmjax.errors import UserError

PROGRAM = "mmjax.data.bench"
FLAGS = {
    "source": "data to read, in place of that of the settings",
    "split": "its split (train)",
    "workdir": "folder of a run whose settings of the data are measured",
    "secs": "how long to measure, beyond the first batch (10)",
    "rate": "examples/s that the training step takes, to be told what feeds it",
    "json": "file to write the numbers to",
}
DEFAULT = DataConfig(
    preprocess=PreprocessConfig(image_size=224),
    augment=AugmentConfig(crop_area=(0.08, 1.0)),
    cache_bytes=0,
)
"""The usual recipe for photos (Szegedy et al. 2015, section 6), each of them decoded every time."""
IDLE = 0.3
"""Share of the cores that may stay without work before something else than computing is the limit."""


@dataclass(frozen=True)
class Measured:
    """What came out: examples a second, seconds to the first batch, seconds measured, what the stages took, records
    that could not be used, and the share of the cores' time in which no program had work for them."""

    examples_per_sec: float
    first_batch_secs: float
    secs: float
    costs: Costs
    num_bad: int
    idle: float


def main(arguments: Sequence[str]) -> None:
    values = parse(arguments)
    config = settings(values)
    secs, rate = number(values, "secs", 10.0), number(values, "rate", 0.0)
    if values["json"] is not None and not Path(values["json"]).absolute().parent.is_dir():
        raise UserError(f"--json={values['json']} is in a folder that does not exist: make it first")
    measured = measure(config, secs)
    show(Console(), config, measured, rate)
    if values["json"] is not None:
        Path(values["json"]).write_text(json.dumps(summary(measured), indent=2) + "\n")


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The values of the flags; what `--config.data` overrides are the settings of a file, of a run, or `DEFAULT`.

    Raises:
        UserError: as `flags.parse_flags`; or there is no such run, or a file beside it.
    """
    default = ConfigDict({"data": to_config_dict(DEFAULT)})
    values = flags.parse_flags(PROGRAM, arguments, FLAGS, config=default)
    if values["workdir"] is None:
        return values
    if any(argument.lstrip("-").partition("=")[0] == "config" for argument in arguments):
        raise UserError("--config and --workdir each name the settings: leave one out")
    of_run = from_dict(DataConfig, _data_of_run(Path(values["workdir"])), "config.data")
    return flags.parse_flags(PROGRAM, arguments, FLAGS, config=ConfigDict({"data": to_config_dict(of_run)}))


def settings(values: Mapping[str, Any]) -> DataConfig:
    """Those that the flags ask for."""
    config = from_dict(DataConfig, values["config"].to_dict()["data"], "config.data")
    if values["source"] is not None:
        config = replace(config, source=values["source"], split="train", mixture=())
    return config if values["split"] is None else replace(config, split=values["split"], mixture=())


def _data_of_run(workdir: Path) -> dict[str, Any]:
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} holds no run: give the --workdir of python -m mmjax.train")
    try:
        found: dict[str, Any] = json.loads(path.read_text())["data"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it, or measure with --config") from error
    return found


def number(values: Mapping[str, Any], name: str, default: float) -> float:
    """The number that a flag has.

    Raises:
        UserError: it is none.
    """
    try:
        return default if values[name] is None else float(values[name])
    except ValueError as error:
        raise UserError(f"--{name}={values[name]} is not a number: write --{name}={default or 1000:g}") from error


def measure(config: DataConfig, secs: float) -> Measured:
    """Reads batches as training does for `secs`, after the first one.

    Raises:
        UserError: as training does.
    """
    start = time.perf_counter()
    data, tokenizer = open_training(config), Tokenizer.load(config.tokenizer, config.text_rules)
    costs, bad = Costs(), BadRecords(len(data.records), config.max_bad_share)
    batches = train_batches(
        config,
        data.records,
        tokenizer,
        seed=0,
        start_step=0,
        num_steps=sys.maxsize // config.batch_size // 2,
        bad_records=bad,
        mixture=data.mixture,
        costs=costs,
    )
    next(batches)
    first, seen_before, idle_before = time.perf_counter(), costs.rows, idle_secs()
    for _ in itertools.takewhile(lambda _: time.perf_counter() - first < secs, batches):
        pass
    taken = time.perf_counter() - first
    idle = (idle_secs() - idle_before) / (num_cores() * taken)
    return Measured((costs.rows - seen_before) / taken, first - start, taken, costs, bad.count, idle)


def show(console: Console, config: DataConfig, measured: Measured, rate: float) -> None:
    """A table of the stages, and in sentences which of them limits, and what feeds a step of this `rate`."""
    costs, cores = measured.costs, num_cores()
    table = Table("stage", "ms of a core, an example", "examples/s a core", "share of computing", "ms by the clock")
    total = sum(costs.cpu_secs.values())
    for stage in (stage for stage in STAGES if costs.secs.get(stage)):
        cpu, secs = (1e3 * found[stage] / costs.rows for found in (costs.cpu_secs, costs.secs))
        per_core = f"{1e3 / cpu:,.0f}" if cpu else ""
        table.add_row(stage, f"{cpu:.3f}", per_core, f"{costs.cpu_secs[stage] / total:.0%}", f"{secs:.3f}")
    console.print(table)
    workers = f", in {config.num_workers} processes" if config.num_workers else ""
    lines = [
        f"{measured.examples_per_sec:,.0f} examples/s with {config.num_threads} threads{workers} on {cores} cores; "
        f"the first batch of {config.batch_size} came after {measured.first_batch_secs:.1f} s",
        limit(config, measured, cores),
        needs(costs, rate or measured.examples_per_sec),
    ]
    if measured.num_bad:
        lines.append(f"{measured.num_bad} records could not be used")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def limit(config: DataConfig, measured: Measured, cores: int) -> str:
    """What more examples a second are kept from by."""
    costs = measured.costs
    could_compute = min(cores, max(config.num_threads, 1) * max(config.num_workers, 1))
    busy = measured.examples_per_sec * costs.cpu_secs_each / could_compute
    stage = max(costs.cpu_secs, key=lambda stage: costs.cpu_secs[stage])
    if busy > 1 - IDLE:
        more = "" if could_compute == cores else f"; {could_compute} of {cores} cores are used: raise data.num_threads"
        turbo = config.augment.crops and config.augment.decoder != "turbo" and stage in ("decode", "augment")
        faster = "; for JPEGs, data.augment.decoder = 'turbo' takes half of that" if turbo else ""
        return f"what limits is computing, most of all to {VERBS[stage]}{more}{faster}"
    if measured.idle < IDLE / 2:
        return (
            f"what limits is what other programs do on this machine ({1 - busy:.0%} of the cores' time, and "
            f"{measured.idle:.0%} is idle): measure again without them"
        )
    waiting = {stage: costs.secs[stage] - costs.cpu_secs[stage] for stage in costs.secs}
    slowest = max(waiting, key=lambda stage: waiting[stage])
    if slowest == "read":
        return f"what limits is waiting for the storage ({1 - busy:.0%} of the cores are idle): raise data.num_threads"
    return (
        f"what limits is one Python with all threads ({1 - busy:.0%} of the cores are idle): give data.num_workers "
        "processes to read and decode"
    )


def summary(measured: Measured) -> dict[str, Any]:
    """What scripts read."""
    return {**asdict(measured), "cpu_secs_each": measured.costs.cpu_secs_each}


if __name__ == "__main__":
    sys.exit(ending.status(main, sys.argv[1:]))
