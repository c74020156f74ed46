"""What `python -m mmjax.plan` is asked for, and where it writes its answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mmjax import flags, workdir
from mmjax.errors import UserError
from mmjax.experiment import Experiment, from_values
from mmjax.plan import cpu, page, run, scale, search, topology
from mmjax.plan.plan import make_plan

FLAGS = {
    "topology": "machine to plan for, such as v5e:16x16, h100:8 or cpu:8; by default config.plan.topology",
    "slices": "how many of it, joined by the slower network",
    "json": "file to write the plan to",
    "report": "HTML file to write the plan to",
    "hlo": "file for the text of the compiled step",
    "prices": "TOML file with the price of a chip-hour; by default the table of mmjax",
    "preempt_hours": "a machine is taken away every so many hours (24)",
    "restart_secs": "until a stopped run steps again (180)",
    "search_count": "ways that --search compiles (6)",
    "scale": "machines to plan the same training for, such as v5e:2x2,v5e:4x4,v5e:8x8: weak and strong scaling",
    "picture": "PNG file of --scale (scaling.png)",
}
SWITCHES = {
    "search": "try meshes, microbatches, what is saved and how the loss is computed; show the best",
}
OUTPUTS = ("json", "report", "hlo", "search", "search_count", "scale", "picture")
"""Flags that a plan in a process of its own is not given."""
PROGRAM = "mmjax.plan"
FILE_COLUMNS = 140
"""Of what is written to a file or a pipe, which has no width of its own."""


def main(arguments: Sequence[str]) -> None:
    values = flags.parse_flags(PROGRAM, arguments, FLAGS, SWITCHES)
    experiment = from_values(flags.require(values, "config", PROGRAM))
    if values["scale"]:
        names = [name.strip() for name in values["scale"].split(",")]
        picture = Path(values["picture"] or "scaling.png")
        scale.scale(experiment, _without_outputs(arguments), names, picture, _console())
        return
    machine = open_machine(values, experiment)
    if values["search"]:
        count, devices = int(number(values, "search_count", 6)), len(machine.devices)
        chip = machine.chip or cpu.shared_by(cpu.measured_chip(), devices)
        search.search(experiment, _without_outputs(arguments), devices, chip, count, _console())
        return
    show_plan(experiment, machine, values, arguments)


def show_plan(
    experiment: Experiment, machine: topology.Topology, values: dict[str, Any], arguments: Sequence[str]
) -> None:
    """Makes one plan, prints it and writes it where that is asked for.

    Raises:
        UserError: after that, where the step does not fit.
    """
    plan = {"config": config_name(arguments)} | make_plan(
        experiment,
        machine,
        price=run.read_price(machine.name, Path(values["prices"]) if values["prices"] else run.PRICES),
        preempt_hours=number(values, "preempt_hours", 24.0),
        restart_secs=number(values, "restart_secs", run.RESTART_SECS),
        hlo=Path(values["hlo"]) if values["hlo"] else None,
    )
    page.show(plan, _console())
    if values["json"]:
        workdir.write_json(Path(values["json"]), plan)
    if values["report"]:
        page.write_html(plan, Path(values["report"]))
    if not plan["memory"]["fits"]:
        raise UserError(f"{page.headline(plan)}: change one of the lines above")


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=FILE_COLUMNS)


def _without_outputs(arguments: Sequence[str]) -> list[str]:
    """The arguments of one plan, each as `--name=value`."""
    written: list[str] = []
    for argument in arguments:
        if argument.startswith("-") or not written:
            written.append(argument)
        else:
            written[-1] += f"={argument}"
    return [one for one in written if one.lstrip("-").partition("=")[0] not in OUTPUTS]


def open_machine(values: dict[str, Any], experiment: Experiment) -> topology.Topology:
    """The topology that is asked for, or else that of the config.

    Raises:
        UserError: neither names one.
    """
    name = values["topology"] or experiment.plan.topology
    if not name:
        raise UserError("--topology is missing, and config.plan.topology is '': give one, such as --topology v5e:4x4")
    slices = values["slices"] or ("1" if values["topology"] else str(experiment.plan.num_slices))
    if not slices.isdigit() or slices == "0":
        raise UserError(f"--slices = {slices!r} is no number of slices: give 1 or more")
    return topology.open_topology(name, int(slices))


def number(values: dict[str, Any], name: str, default: float) -> float:
    """The value of a flag that is a positive number.

    Raises:
        UserError: it is not.
    """
    if values[name] is None:
        return default
    try:
        found = float(values[name])
    except ValueError:
        found = 0.0
    if found <= 0:
        raise UserError(f"--{name} = {values[name]!r} is no positive number: correct it")
    return found


def config_name(arguments: Sequence[str]) -> str:
    """What was planned, as it was asked for: the file's name and the overrides."""
    changed = [argument for argument in arguments if argument.startswith(("--config.", "--noconfig."))]
    given = [a.partition("=")[2] or arguments[i + 1] for i, a in enumerate(arguments) if a.split("=")[0] == "--config"]
    return " ".join([Path(given[0]).stem, *changed])
