"""Writes docs/plans.md: the plan of every shipped config that names a machine.

    python benchmarks/plans.py [--folder runs/plans] [--config NAME ...]

A config is planned where the folder has no plan of it yet, or where it is named; each takes minutes. Needs the TPU
compiler (`pip install -r requirements-plan.txt`).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmjax.config_file import load_config
from mmjax.errors import UserError
from mmjax.experiment import Experiment, from_values
from mmjax.plan import page

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "plans.md"
INTRODUCTION = """# Plans of the shipped configs

Written by `python benchmarks/plans.py`, not by hand; [planning.md](planning.md) says what the figures are. No run was
timed on these machines: the time of a step lies between the two ends.

"""
HEADS = ["config", "machine", "batch", "mesh", "peak GiB", "of", "ms a step", "MFU", "examples/s", "hours of the run"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "plans", help="where the plans are kept")
    parser.add_argument("--config", action="append", default=[], help="plan this one again")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    plans = []
    for name in planned():
        file = options.folder / f"{name}.json"
        if name in options.config or not file.is_file():
            make(name, file)
        if file.is_file():
            plans.append(json.loads(file.read_text()))
    PAGE.write_text(written(plans))
    print(f"{len(plans)} plans in {PAGE}")


def planned() -> list[str]:
    """The configs that name a machine."""
    sys.path.insert(0, str(ROOT))
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    return [name for name in names if (found := opened(name)) is not None and found.plan.topology]


def opened(name: str) -> Experiment | None:
    """The experiment of a config; None where it needs something that is not installed."""
    try:
        return from_values(load_config(str(ROOT / "configs" / f"{name}.py")))
    except UserError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return None


def make(name: str, file: Path) -> None:
    """Plans a config in a process of its own; one that does not fit writes its plan, too."""
    print(f"planning {name}", flush=True)
    command = [sys.executable, "-m", "mmjax.plan", f"--config=configs/{name}.py", f"--json={file}"]
    subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)


def written(plans: list[dict[str, Any]]) -> str:
    """The page."""
    parts = [INTRODUCTION, table(HEADS, [row(plan) for plan in plans])]
    for plan in plans:
        parts.append(f"\n## {plan['config']}\n\n{page.headline(plan)}.\n")
        parts += [f"\n**{title}**\n\n{table(heads, rows)}" for title, heads, rows in page.tables(plan)]
        parts.append("\n" + "".join(f"- {line.strip()}\n" for line in page.lines(plan)))
    return "".join(parts)


def row(plan: dict[str, Any]) -> list[str]:
    memory = plan["memory"]
    mesh = " x ".join(str(size) for size in plan["mesh"].values())
    first = [plan["config"], plan["topology"], f"{plan['batch_size']:,}", mesh]
    sizes = [f"{(memory[key] or 0) / 2**30:.2f}" for key in ("peak_bytes", "limit_bytes")]
    if not memory["fits"]:
        return [*first, *sizes, "does not fit", "", "", ""]
    ends, mfu = [plan["run"]["ends"][end] for end in ("roofline", "cycles")], plan["time"]["mfu"]
    return [
        *first,
        *sizes,
        page.bracket(plan),
        f"{mfu['cycles']:.0%} to {mfu['roofline']:.0%}",
        " to ".join(f"{end['examples_per_sec']:,.0f}" for end in reversed(ends)),
        " to ".join(f"{end['hours']:,.0f}" for end in ends),
    ]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


if __name__ == "__main__":
    main()
