"""How the pictures look: one typeface, thin axes, colours that colour-blind readers tell apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design", 2008.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
INK = "#1f2933"
MUTED = "#7b8794"
HAIRLINE = "#d9dee3"

FAMILIES = ("Inter", "Helvetica Neue", "Arial", "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC")
"""In the order of preference; the later ones fill in the characters that the earlier ones lack."""
PIXELS_PER_INCH = 200

_RC: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    # Captions are words: a dollar sign in one does not begin a formula.
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": HAIRLINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


@contextmanager
def applied() -> Iterator[None]:
    """Matplotlib's settings for the block alone: the style of a program that calls us stays its own."""
    installed = set(font_manager.get_font_names())
    families = [family for family in FAMILIES if family in installed]
    with mpl.rc_context({**_RC, "font.family": families}):
        yield


def plot(width: float = 6.4, height: float = 2.8) -> tuple[Figure, Axes]:
    """An empty plot, sizes in inches; made without pyplot, which keeps global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def save(figure: Figure, path: Path) -> Path:
    """Writes a PNG on white."""
    figure.savefig(path, dpi=PIXELS_PER_INCH, facecolor="white")
    return path
