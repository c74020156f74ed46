"""`python -m mmjax.report --workdir DIR`: writes the report of a run again from the files in its workdir."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmjax import command_line
from mmjax.report.page import write_report


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m mmjax.report", description="Writes WORKDIR/report.html of a run.")
    parser.add_argument("--workdir", type=Path, required=True, help="the folder of the run")
    print(f"report: {write_report(parser.parse_args(arguments).workdir)}")


if __name__ == "__main__":
    command_line.run(main)
