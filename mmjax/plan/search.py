"""The best ways to run a training on a machine: guessed by closed forms, and the few that remain compiled."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from flax import nnx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmjax.config import differences
from mmjax.errors import UserError
from mmjax.experiment import Experiment, from_values
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.nn.parameter import num_parameters
from mmjax.parallel.chips import Chip
from mmjax.plan import page
from mmjax.plan.candidates import Guess, candidates, guess, worth_compiling
from mmjax.plan.processes import Answer, Request, answers

END = "hybrid_secs"
"""The sum that candidates are ranked by."""


class Choice(NamedTuple):
    """A way that was compiled."""

    overrides: tuple[str, ...]
    """Only those that change something."""
    secs: float
    peak_bytes: int
    fits: bool
    plan: dict[str, Any]


def guesses(experiment: Experiment, num_devices: int, chip: Chip, count: int) -> list[Guess]:
    """What is worth compiling.

    Raises:
        UserError: there are no closed forms for the model, or nothing may fit.
    """
    if not isinstance(experiment.model, DualEncoderConfig):
        raise UserError("--search knows the closed forms of dual encoders: plan meshes of other models one by one")
    parameters = _num_parameters(experiment)
    all_ = [guess(experiment, one, chip, parameters) for one in candidates(experiment, num_devices)]
    found = worth_compiling(all_, chip.memory_bytes, count)
    if not found:
        least = min((one.num_bytes for one in all_), default=0.0)
        raise UserError(
            f"nothing of {len(all_)} ways fits {page.gib(chip.memory_bytes)} a device (the least is about "
            f"{page.gib(least)}): take a topology with more devices, or a smaller data.batch_size"
        )
    return found


def search(
    experiment: Experiment, arguments: Sequence[str], num_devices: int, chip: Chip, count: int, console: Console
) -> list[Choice]:
    """Compiles the config as it is and the best `count` ways in processes, and shows which are worth choosing from.

    `arguments` are those that the plan was asked for with. Stopped by Ctrl-C, it shows what it has so far, and another
    search goes on from there.
    """
    found = guesses(experiment, num_devices, chip, count)
    requests = _requests(experiment, arguments, [(), *(one.candidate.overrides for one in found)], num_devices)
    console.print(f"compiling {len(requests)} of the ways to run this; Ctrl-C shows what is there so far")
    choices: list[Choice] = []
    try:
        made = answers(list(requests))
        for answer in track(made, "planning", total=len(requests), console=console, transient=True):
            _add(choices, answer, requests[answer.request], console)
    except KeyboardInterrupt:
        console.print("stopped: what was planned is kept, and the same search goes on from it")
    show(choices, console)
    return choices


def _add(choices: list[Choice], answer: Answer, changing: tuple[str, ...], console: Console) -> None:
    if answer.plan is None:
        console.print(f"left out: {answer.reason}", highlight=False, soft_wrap=True)
        return
    fits = bool(answer.plan["memory"]["fits"])
    secs = answer.plan["time"][END] if fits else float("inf")
    choices.append(Choice(changing, secs, int(answer.plan["memory"]["peak_bytes"] or 0), fits, answer.plan))


def front(choices: Iterable[Choice]) -> list[Choice]:
    """Those that fit and of which none is both faster and smaller, the fastest first (the Pareto front)."""
    found: list[Choice] = []
    for choice in sorted((one for one in choices if one.fits), key=lambda one: (one.secs, one.peak_bytes)):
        if not found or choice.peak_bytes < found[-1].peak_bytes:
            found.append(choice)
    return found


def show(choices: Sequence[Choice], console: Console) -> None:
    """The front as a table, each with the line to paste."""
    best = front(choices)
    if not best:
        console.print("nothing that was planned fits")
        return
    table = Table("ms a step", "between", "peak", "to paste", title="Time against memory", title_justify="left")
    for choice in best:
        line = " ".join(choice.overrides) or "(as it is)"
        table.add_row(page.bracket(choice.plan), page.milliseconds(choice.secs), page.gib(choice.peak_bytes), line)
    console.print(table)
    console.print(f"{len(choices)} were compiled, {sum(choice.fits for choice in choices)} of them fit")


def _requests(
    experiment: Experiment, arguments: Sequence[str], ways: Sequence[tuple[str, ...]], num_devices: int
) -> dict[Request, tuple[str, ...]]:
    """With the overrides that change something; of ways that come to the same config, the first."""
    given = _filled(experiment, num_devices)
    by_config: dict[str, tuple[Request, tuple[str, ...]]] = {}
    for overrides in ways:
        config = json.dumps(with_overrides(given, overrides).to_dict(), sort_keys=True)
        changing = tuple(override for override in overrides if _changes(given, override))
        by_config.setdefault(config, (Request((*arguments, *overrides), config), changing))
    return dict(by_config.values())


def _filled(experiment: Experiment, num_devices: int) -> Experiment:
    """With the number of devices for -1, where the others leave a whole one: as candidates name their meshes."""
    mesh = experiment.mesh
    rest = mesh.fsdp * mesh.tensor
    if mesh.data != -1 or rest < 1 or num_devices % rest:
        return experiment
    return replace(experiment, mesh=replace(mesh, data=num_devices // rest))


def with_overrides(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """The experiment with `--config.a.b=value` applied, of values that are whole numbers or words."""
    values = experiment.to_config_dict()
    for override in overrides:
        path, _, value = override.removeprefix("--config.").partition("=")
        values.update_from_flattened_dict({path: int(value) if value.lstrip("-").isdigit() else value})
    return from_values(values)


def _changes(experiment: Experiment, override: str) -> bool:
    return bool(differences(experiment.to_dict(), with_overrides(experiment, [override]).to_dict()))


def _num_parameters(experiment: Experiment) -> int:
    return num_parameters(nnx.eval_shape(lambda: experiment.model.build(jax.random.key(0))))
