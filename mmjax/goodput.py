"""Where the time of a run went, as a table and a picture: `python -m mmjax.goodput --workdir DIR [--json FILE]`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmjax import command_line, workdir
from mmjax.report.goodput_figure import draw_goodput
from mmjax.training.goodput import Start, account, goodput, read_starts

MEANINGS = {
    "step": "steps that were kept",
    "repeated step": "steps made again, because a start ended before they were saved",
    "compile": "compiling the step, or loading it compiled",
    "start-up": "imports, data, the state from its checkpoint",
    "data": "the devices waited for data",
    "evaluation": "evaluations during training",
    "checkpoint": "the step waited for a checkpoint",
    "down": "no process was there: between two starts, or after the last word of one that was killed",
}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m mmjax.goodput", description="Says where the time of a run went.")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--json", type=Path, help="file to write the seconds to")
    options = parser.parse_args(arguments)
    starts = read_starts(options.workdir)
    totals = account(starts)
    show(Console(), totals, starts)
    print(f"picture: {draw_goodput(starts, options.workdir / 'goodput.png')}")
    if options.json is not None:
        workdir.write_json(options.json, summary(totals, starts))


def show(console: Console, totals: Mapping[str, float], starts: Sequence[Start]) -> None:
    """The table, and what it says in one line."""
    wall = sum(totals.values())
    table = Table("what", "seconds", "share", "which is")
    for kind, secs in sorted(totals.items(), key=lambda item: -item[1]):
        table.add_row(kind, f"{secs:,.1f}", f"{secs / wall:.1%}", MEANINGS.get(kind, ""))
    console.print(table)
    first_steps = ", ".join(f"{start.first_step_secs:.1f}" for start in starts if start.first_step_secs)
    console.print(
        f"goodput {goodput(totals):.1%} of {wall:,.0f} s in {len(starts)} start{'s' * (len(starts) > 1)}; "
        f"seconds to the first step of each: {first_steps or 'none came so far'}",
        highlight=False,
        soft_wrap=True,
    )


def summary(totals: Mapping[str, float], starts: Sequence[Start]) -> dict[str, Any]:
    """What scripts read."""
    return {
        "goodput": goodput(totals),
        "wall_secs": sum(totals.values()),
        "secs": dict(totals),
        "starts": [{**vars(start), "secs": dict(start.secs)} for start in starts],
    }


if __name__ == "__main__":
    command_line.run(main)
