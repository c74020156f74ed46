"""Curves of a run: loss, learning rate, throughput and recall, one PNG each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from mmjax.report import style
from mmjax.report.run import Run, first_order, has_recalls, splits_of

SMOOTHED_SHARE = 0.02
"""Width of the moving average as a share of the run: wide enough to see the trend, too narrow to shift it."""


def draw_plots(run: Run) -> dict[str, Path]:
    """Draws what the run has numbers for into its workdir; the files by name, in the order to show them."""
    drawn = {}
    with style.applied():
        for name, (draw, applies) in _PLOTS.items():
            if applies(run):
                figure, axes = style.plot()
                draw(run, axes)
                _label_steps(axes)
                drawn[name] = style.save(figure, run.workdir / f"{name}.png")
    return drawn


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving average over `width` values, over fewer at the ends; values that are not finite are left out."""
    finite = np.isfinite(values)
    kernel = np.ones(min(max(1, width), len(values)))
    sums = np.convolve(np.where(finite, values, 0.0), kernel, "same")
    counts = np.convolve(finite, kernel, "same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def _loss(run: Run, axes: Axes) -> None:
    _raw_and_smooth(axes, run.metrics["step"], run.metrics["loss"], style.BLUE)
    axes.set(title="Training loss", ylabel="loss per example")
    axes.set_ylim(*_robust_range(run.metrics["loss"]))


def _learning_rate(run: Run, axes: Axes) -> None:
    axes.plot(run.metrics["step"], run.metrics["learning_rate"], color=style.ORANGE)
    axes.set(title="Learning rate", ylabel="learning rate")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _throughput(run: Run, axes: Axes) -> None:
    rate = run.metrics["examples_per_sec"]
    _raw_and_smooth(axes, run.metrics["step"], rate, style.GREEN)
    axes.set(title="Throughput", ylabel="examples per second")
    axes.set_ylim(0, 1.15 * np.nanpercentile(rate, 99))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _recall(run: Run, axes: Axes) -> None:
    for split, colour in zip(
        _retrieval_splits(run), (style.BLUE, style.ORANGE, style.GREEN, style.MUTED), strict=False
    ):
        points = [(line["step"], _recall_at_1(splits_of(line)[split])) for line in run.evals if split in line]
        steps, recalls = zip(*points, strict=True)
        axes.plot(steps, recalls, color=colour, marker="o", markersize=3.5)
        axes.annotate(split, (steps[-1], recalls[-1]), (6, 0), textcoords="offset points", color=colour, va="center")
    axes.set(title="Recall at 1, image to text", ylabel="share of images")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _raw_and_smooth(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str) -> None:
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.6)
    axes.plot(steps, smoothed(values, round(SMOOTHED_SHARE * len(values))), color=colour)
    axes.margins(x=0.01)


def _label_steps(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def _robust_range(values: np.ndarray) -> tuple[float, float]:
    """From 0 to where 99.5% of the values lie: one spike must not press the curve flat."""
    return min(0.0, float(np.nanmin(values))), 1.05 * float(np.nanpercentile(values, 99.5))


def _retrieval_splits(run: Run) -> list[str]:
    return [split for split, results in run.results.items() if has_recalls(results)]


def _recall_at_1(results: dict[str, Any]) -> float:
    found: float = first_order(results)["image_to_text"]["r@1"]
    return found


def _has(name: str) -> Callable[[Run], bool]:
    return lambda run: bool(np.isfinite(run.metrics.get(name, np.nan)).any())


_PLOTS: dict[str, tuple[Callable[[Run, Axes], None], Callable[[Run], bool]]] = {
    "loss": (_loss, _has("loss")),
    "learning_rate": (_learning_rate, _has("learning_rate")),
    "throughput": (_throughput, _has("examples_per_sec")),
    "recall": (_recall, lambda run: len(run.evals) > 1 and bool(_retrieval_splits(run))),
}
