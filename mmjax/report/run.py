"""What a run has left in its workdir, read back for the report."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax import workdir as folder
from mmjax.errors import UserError
from mmjax.training.jsonl import read_lines
from mmjax.training.metrics import EVALS_FILE, METRICS_FILE


class Run(NamedTuple):
    """A run as its files tell it."""

    workdir: Path
    config: dict[str, Any]
    metrics: dict[str, np.ndarray]
    """A column of float64 a name, one row a step; NaN where a step has no such number, or not a finite one."""
    evals: list[dict[str, Any]]
    """One dict an evaluation, in the order of `step`: results by the name of the split."""

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The results of the last evaluation by split; empty where there was none."""
        return splits_of(self.evals[-1]) if self.evals else {}


def read_run(workdir: Path) -> Run:
    """The run in `workdir`.

    Raises:
        UserError: there is no run in it, or it has not made a step.
    """
    config = folder.read_config(workdir)
    lines = list(read_lines(workdir / METRICS_FILE))
    if not lines:
        raise UserError(f"{workdir / METRICS_FILE} holds no step: train first, with --workdir={workdir}")
    return Run(workdir, config, _columns(lines), list(read_lines(workdir / EVALS_FILE)))


def splits_of(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The results of one evaluation by split."""
    return {name: results for name, results in evaluation.items() if name != "step"}


def has_recalls(results: dict[str, Any]) -> bool:
    """Whether it was asked which image belongs to which caption."""
    return "retrieval" in results or "choice" in results


def first_order(results: dict[str, Any]) -> dict[str, Any]:
    """The recalls of the towers; of a model whose towers have no common space, of what it chose among a few."""
    found: dict[str, Any] = results["retrieval"] if "retrieval" in results else results["choice"]
    return found


def _columns(lines: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for line in lines for name in line)
    # JSON has null for what was not finite, and float64 has NaN.
    return {name: np.array([line.get(name) for line in lines], np.float64) for name in names}
