"""The wall time of a run as one bar a start."""

from collections.abc import Sequence
from pathlib import Path

from mmjax.report import style
from mmjax.training.goodput import DOWN, REPEATED, USEFUL, Start, repeated_secs

COLOURS = {
    USEFUL: style.GREEN,
    REPEATED: "#F0E442",
    "compile": "#CC79A7",
    "start-up": style.MUTED,
    "data": style.ORANGE,
    "evaluation": style.BLUE,
    "checkpoint": "#E69F00",
    DOWN: style.HAIRLINE,
}
"""By kind, in the order of the bar; Okabe and Ito's palette again."""
MOST_BARS = 30
"""Starts that are drawn, the last ones: more would be too thin to read."""


def draw_goodput(starts: Sequence[Start], path: Path) -> Path:
    """Draws the last starts of a run, the latest at the bottom, and returns `path`."""
    shown = list(enumerate(zip(starts, [*starts[1:], None], strict=True), start=1))[-MOST_BARS:]
    with style.applied():
        figure, axes = style.plot(height=1.4 + 0.28 * len(shown))
        left = dict.fromkeys((number for number, _ in shown), 0.0)
        for kind, colour in COLOURS.items():
            widths = [_secs(kind, start, following) for _, (start, following) in shown]
            if any(widths):
                axes.barh(list(left), widths, left=list(left.values()), color=colour, label=kind, height=0.7)
            left = {number: secs + width for (number, secs), width in zip(left.items(), widths, strict=True)}
        axes.set(title="Where the time went", xlabel="seconds", ylabel="start")
        axes.set_yticks(list(left))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        figure.legend(loc="outside lower center", ncols=4)
        return style.save(figure, path)


def _secs(kind: str, start: Start, following: Start | None) -> float:
    repeated = repeated_secs(start, following)
    if kind == REPEATED:
        return repeated
    if kind == DOWN:
        return max(0.0, following.began - start.ended) if following else 0.0
    return start.secs.get(kind, 0.0) - (repeated if kind == USEFUL else 0.0)
