"""How a training scales over machines of different sizes, planned: a table and a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmjax.errors import UserError
from mmjax.experiment import Experiment
from mmjax.plan import page, topology
from mmjax.plan.processes import Request, answers
from mmjax.plan.search import END, with_overrides
from mmjax.report import style

WEAK, STRONG = "weak", "strong"
MEANINGS = {
    WEAK: "the batch grows with the machine",
    STRONG: "the batch stays as it is",
}


class Point(NamedTuple):
    """A machine, and what it makes of the training."""

    topology: str
    num_devices: int
    batch_size: int
    examples_per_sec: float | None
    """By the hybrid sum; None where it does not fit."""
    plan: dict[str, Any]


def scale(
    experiment: Experiment, arguments: Sequence[str], names: Sequence[str], picture: Path, console: Console
) -> dict[str, list[Point]]:
    """Plans the training on every topology, with the batch that the first one has a device (weak) and the whole batch
    (strong), and draws `picture`. On machines with fewer devices than `mesh.fsdp` the state is split over all of them.

    Raises:
        UserError: a name that is no topology, or the smallest machine does not divide the batch.
    """
    sizes = {name: topology.num_devices(name) for name in names}
    ordered = sorted(sizes, key=lambda name: sizes[name])
    smallest, batch_size = sizes[ordered[0]], experiment.data.batch_size
    largest = sizes[ordered[-1]]
    if batch_size % largest:
        raise UserError(f"data.batch_size = {batch_size} does not divide by the {largest} devices of {ordered[-1]}")
    batches = {
        WEAK: {name: batch_size * sizes[name] // largest for name in ordered},
        STRONG: dict.fromkeys(ordered, batch_size),
    }
    if batches[WEAK][ordered[0]] < smallest:
        raise UserError(f"data.batch_size = {batch_size} leaves {ordered[0]} less than a row a device: raise it")
    requests = {
        (kind, name): _request(experiment, arguments, name, sizes[name], size)
        for kind, of_kind in batches.items()
        for name, size in of_kind.items()
    }
    made = {}
    wanted = list(dict.fromkeys(requests.values()))
    for answer in track(answers(wanted), "planning", total=len(wanted), console=console, transient=True):
        if answer.plan is None:
            console.print(f"left out: {answer.reason}", highlight=False, soft_wrap=True)
        made[answer.request] = answer.plan
    found: dict[str, list[Point]] = {WEAK: [], STRONG: []}
    for (kind, name), request in requests.items():
        plan = made[request]
        if plan is not None:
            found[kind].append(_point(name, sizes[name], batches[kind][name], plan))
    show(found, console)
    draw(found, picture)
    console.print(f"picture: {picture}", highlight=False, soft_wrap=True)
    return found


def _request(experiment: Experiment, arguments: Sequence[str], name: str, num_devices: int, batch_size: int) -> Request:
    overrides = [f"--config.data.batch_size={batch_size}", *_mesh_overrides(experiment, num_devices)]
    replaced = ("--topology", *(override.partition("=")[0] for override in overrides))
    kept = [argument for argument in arguments if argument.partition("=")[0] not in replaced]
    changed = with_overrides(experiment, overrides)
    return Request((*kept, *overrides, f"--topology={name}"), json.dumps(changed.to_dict(), sort_keys=True))


def _mesh_overrides(experiment: Experiment, num_devices: int) -> list[str]:
    """A state that is split over more devices than there are is split over these."""
    mesh = experiment.mesh
    most = num_devices // mesh.tensor
    if mesh.data != -1 or mesh.fsdp <= most:
        return []
    return [f"--config.mesh.fsdp={most}"]


def _point(name: str, devices: int, batch_size: int, plan: dict[str, Any]) -> Point:
    fits = plan["memory"]["fits"]
    return Point(name, devices, batch_size, batch_size / plan["time"][END] if fits else None, plan)


def show(found: dict[str, list[Point]], console: Console) -> None:
    """A table for each kind of scaling; efficiency is examples a device and second beside those of the smallest."""
    for kind, points in found.items():
        heads = ["machine", "devices", "batch", "ms a step", "examples/s", "efficiency", "peak"]
        table = Table(*heads, title=f"{kind} scaling: {MEANINGS[kind]}", title_justify="left")
        for point, share in zip(points, efficiencies(points), strict=True):
            rate = "does not fit" if point.examples_per_sec is None else f"{point.examples_per_sec:,.0f}"
            table.add_row(
                point.topology,
                f"{point.num_devices:,}",
                f"{point.batch_size:,}",
                page.bracket(point.plan) if point.examples_per_sec is not None else "",
                rate,
                "" if share is None else f"{share:.0%}",
                page.gib(point.plan["memory"]["peak_bytes"] or 0),
            )
        console.print(table)


def efficiencies(points: Sequence[Point]) -> list[float | None]:
    """Examples a second and device, as a share of those of the smallest machine that it fits."""
    rates = [None if p.examples_per_sec is None else p.examples_per_sec / p.num_devices for p in points]
    first = next((rate for rate in rates if rate is not None), None)
    return [None if rate is None or first is None else rate / first for rate in rates]


def draw(found: dict[str, list[Point]], path: Path) -> Path:
    """Examples a second against devices, both in powers of two, with the line of no loss."""
    with style.applied():
        figure, axes = style.plot()
        for (kind, points), colour in zip(found.items(), (style.BLUE, style.ORANGE), strict=True):
            _line(axes, kind, [point for point in points if point.examples_per_sec is not None], colour)
        axes.set(title="Planned scaling", xlabel="devices", ylabel="examples per second")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.legend()
        return style.save(figure, path)


def _line(axes: Axes, kind: str, points: Sequence[Point], colour: str) -> None:
    if not points:
        return
    devices = [point.num_devices for point in points]
    rates = [point.examples_per_sec or 0.0 for point in points]
    axes.plot(devices, rates, marker="o", color=colour, label=f"{kind}: {MEANINGS[kind]}")
    ideal = [rates[0] * count / devices[0] for count in devices]
    axes.plot(devices, ideal, color=colour, linestyle=":", linewidth=1)
