"""A plan for people: as text on a terminal, and as one HTML file."""

from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.table import Table

from mmjax.parallel.chips import GIB

NUM_PATHS = 15
ENDS = {"roofline": "optimistic", "hybrid": "between", "cycles": "pessimistic"}
WORDS = {"axes", "direction", "from", "most for", "overlapped", "what"}
"""Heads of columns that are read from the left; of the others the first alone is."""
Tables = list[tuple[str, list[str], list[list[str]]]]
"""Title, heads of columns, rows."""


def show(plan: dict[str, Any], console: Console) -> None:
    """Prints the plan."""
    console.print(headline(plan), style="bold", highlight=False, soft_wrap=True)
    for title, heads, rows in tables(plan):
        table = Table(title=title, title_justify="left", title_style="bold")
        for position, head in enumerate(heads):
            table.add_column(head, justify="left" if position == 0 or head in WORDS else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in lines(plan):
        console.print(line, highlight=False, soft_wrap=True)


def write_html(plan: dict[str, Any], path: Path) -> None:
    """The same as one HTML file that needs no other."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmjax.plan", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("page.html")
    parts = {"title": plan["config"], "headline": headline(plan), "tables": tables(plan), "lines": lines(plan)}
    path.write_text(template.render(**parts, words=WORDS), encoding="utf-8")


def headline(plan: dict[str, Any]) -> str:
    """What the plan says, in a line."""
    memory, where = plan["memory"], f"{plan['config']} on {plan['topology']}"
    if not memory["fits"]:
        needed = f" needs {gib(memory['peak_bytes'])} of" if memory["peak_bytes"] else " needs more than"
        return f"{where} does not fit: a device{needed} {gib(memory['limit_bytes'])}"
    room = f" of {gib(memory['limit_bytes'])}" if memory["limit_bytes"] else ""
    return (
        f"{where} fits: {gib(memory['peak_bytes'])}{room} a device, {bracket(plan)} a step, "
        f"{plan['batch_size'] / plan['time']['cycles_secs']:,.0f} to "
        f"{plan['batch_size'] / plan['time']['roofline_secs']:,.0f} examples/s"
    )


def bracket(plan: dict[str, Any]) -> str:
    """The two ends of a step's time."""
    return f"{milliseconds(plan['time']['roofline_secs'])} to {milliseconds(plan['time']['cycles_secs'])} ms"


def tables(plan: dict[str, Any]) -> Tables:
    """All that has rows and columns."""
    found = [_model(plan), _memory(plan)]
    if plan["memory"]["largest"]:
        found.append(_largest(plan))
    if "time" in plan:
        found += [_collectives(plan), _ends(plan), _kinds(plan), _paths(plan)]
    return found


def lines(plan: dict[str, Any]) -> list[str]:
    """All else that is said, a sentence each."""
    found = [f"mesh {', '.join(f'{axis} {size}' for axis, size in plan['mesh'].items())}; batch {plan['batch_size']:,}"]
    if not plan["memory"]["fits"] and plan["memory"].get("remedies"):
        found += ["to make it fit, the cheapest first:", *(f"  {line}" for line in plan["memory"]["remedies"])]
    if "time" in plan:
        found += [plan["time"]["limit"], *_run_lines(plan["run"])]
    return [*found, *plan["notes"], f"compiled in {plan['compile_secs']:.0f} s"]


def _model(plan: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    parameters, flops = plan["model"]["parameters"], plan["flops"]["per_example"]
    rows = []
    for name in [*flops, *(name for name in parameters if name not in flops and name != "all"), "all"]:
        if name == "all":
            forward, backward = (sum(part[key] for part in flops.values()) for key in ("forward", "backward"))
            rows.append([name, f"{parameters[name]:,}", giga(forward), giga(backward), ""])
            continue
        part = flops.get(name)
        cells = [giga(part["forward"]), giga(part["backward"]), giga(part["closed_form"])] if part else ["", "", ""]
        rows.append([name, f"{parameters[name]:,}" if name in parameters else "", *cells])
    return (
        "Model: GFLOPs of an example",
        ["part", "parameters", "forward", "backward, with what is computed again", "forward by formula"],
        rows,
    )


def _memory(plan: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    memory = plan["memory"]
    rows = [[name, gib(size)] for name, size in memory["composition"].items()]
    if "explained_bytes" in memory:
        rows.append(["sum, read from the program", gib(memory["explained_bytes"])])
    if memory["peak_bytes"]:
        rows.append(["peak by the compiler", gib(memory["peak_bytes"])])
    if memory["headroom_bytes"] is not None:
        rows.append(["room that is left", gib(memory["headroom_bytes"])])
    return "Memory of a device at its fullest", ["what", "size"], rows


def _largest(plan: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    rows = [
        [one["array"], f"{one['num_bytes'] / 2**20:,.0f}", one["category"], one["place"]]
        for one in plan["memory"]["largest"]
    ]
    return "Largest arrays then", ["array", "MiB", "what", "from"], rows


def _collectives(plan: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    rows = [
        [
            one["operation"],
            f"{one['count']:,}",
            f"{one['array_bytes'] / 2**20:,.1f}",
            f"{one['sent_bytes'] / 2**20:,.1f}",
            ", ".join(one["axes"]),
            one["direction"],
            "yes" if one["overlapped"] else "no",
            milliseconds(one["secs"]),
            one["place"],
        ]
        for one in plan["collectives"]
    ]
    heads = ["collective", "count", "arrays MiB", "sent MiB", "axes", "direction", "overlapped", "ms", "most for"]
    return "Communication of a device in a step", heads, rows


def _ends(plan: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    rows = []
    for name, meaning in ENDS.items():
        one, mfu = plan["run"]["ends"][name], plan["time"]["mfu"].get(name, 0.0)
        rows.append(
            [
                f"{name} ({meaning})",
                milliseconds(plan["time"][f"{name}_secs"]),
                f"{mfu:.1%}",
                f"{one['examples_per_sec']:,.0f}",
                f"{one['hours']:,.1f}",
                f"{one['chip_hours']:,.0f}",
                "" if one["cost"] is None else f"{one['cost']:,.0f}",
            ]
        )
    heads = ["by", "ms a step", "MFU", "examples/s", "hours", "chip-hours", "USD"]
    return f"Time of a step, and of {plan['run']['num_steps']:,} steps", heads, rows


def _kinds(plan: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    return "Time by kind, ms", ["what", *ENDS], [_row(*item) for item in plan["time"]["by_kind"].items()]


def _paths(plan: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    items = list(plan["time"]["by_path"].items())
    rows = [_row(*item) for item in items[:NUM_PATHS]]
    if len(items) > NUM_PATHS:
        rest = {end: sum(its[end] for _, its in items[NUM_PATHS:]) for end in ENDS}
        rows.append(_row(f"{len(items) - NUM_PATHS} others", rest))
    return "Time by module, ms", ["module", *ENDS], rows


def _row(name: str, secs: dict[str, float]) -> list[str]:
    return [name, *(milliseconds(secs[end]) for end in ENDS)]


def _run_lines(run: dict[str, Any]) -> list[str]:
    shares = run["preempted_share"]
    return [
        f"a checkpoint has {gib(run['checkpoint_bytes'])}, every {run['checkpoint_every_steps']:,} steps; stopped "
        f"without notice every {run['preempt_hours']:g} hours, and back after {run['restart_secs']:g} s, the run takes "
        f"{shares['roofline']:.1%} to {shares['cycles']:.1%} longer"
    ]


def gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.2f} GiB"


def giga(flops: int | None) -> str:
    return "" if flops is None else f"{flops / 1e9:,.2f}"


def milliseconds(secs: float | None) -> str:
    return "" if secs is None else f"{1e3 * secs:,.1f}"
