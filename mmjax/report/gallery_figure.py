"""The gallery as one picture: left a caption with the images it finds, right an image with the captions it finds."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, GridSpecFromSubplotSpec

from mmjax.report import style
from mmjax.report.gallery import NUM_ANSWERS, Gallery

ROW_INCHES = 0.92
WIDTH_INCHES = 11.0
HEAD_INCHES = 0.55
TICK = "\N{CHECK MARK}"
# Of matplotlib's own typeface, the only one that is sure to have it.
_TICK_STYLE: dict[str, Any] = {"family": "DejaVu Sans", "size": 6.5, "weight": "bold"}
_CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
_BADGE: dict[str, Any] = {
    "boxstyle": "circle,pad=0.2",
    "facecolor": style.GREEN,
    "edgecolor": "white",
    "linewidth": 0.8,
}


def draw_gallery(gallery: Gallery, path: Path) -> Path:
    """Writes the PNG; right answers have a thick frame and a tick, so that colour is not needed to see them."""
    num_rows = max(len(gallery.captions), len(gallery.images))
    height = HEAD_INCHES + ROW_INCHES * num_rows
    with style.applied():
        figure = Figure(figsize=(WIDTH_INCHES, height))
        top = 1 - HEAD_INCHES / height
        halves = GridSpec(1, 2, figure, left=0.015, right=0.985, top=top, bottom=0.01, wspace=0.06)
        _draw_captions(figure, GridSpecFromSubplotSpec(num_rows, 2 + NUM_ANSWERS, halves[0], 0.08, 0.12), gallery)
        _draw_images(figure, GridSpecFromSubplotSpec(num_rows, 2 + NUM_ANSWERS, halves[1], 0.08, 0.12), gallery)
        for x, title in ((0.015, "A caption and the images it finds"), (0.515, "An image and the captions it finds")):
            figure.text(x, 1 - 0.2 / height, title, weight="bold", size=11, va="center")
        return style.save(figure, path)


def _draw_captions(figure: Figure, grid: GridSpecFromSubplotSpec, gallery: Gallery) -> None:
    for row, caption in enumerate(gallery.captions):
        axes = _blank(figure.add_subplot(grid[row, :2]))
        axes.text(0, 0.5, textwrap.fill(caption, 18, max_lines=4), va="center", weight="bold", size=8.5)
        for column, image in enumerate(gallery.images_found[row]):
            _image(figure.add_subplot(grid[row, 2 + column]), image, bool(gallery.found_is_right[row, column]))


def _draw_images(figure: Figure, grid: GridSpecFromSubplotSpec, gallery: Gallery) -> None:
    for row, image in enumerate(gallery.images):
        _image(figure.add_subplot(grid[row, 0]), image, is_right=False)
        axes = _blank(figure.add_subplot(grid[row, 1:]))
        found = gallery.captions_found[row]
        for place, (caption, is_right) in enumerate(zip(found, gallery.captions_found_right[row], strict=True)):
            _line(axes, 1 - (place + 0.5) / len(found), caption, bool(is_right))


def _image(axes: Axes, image: np.ndarray, is_right: bool) -> None:
    axes.imshow(image, interpolation="lanczos")
    axes.set(xticks=[], yticks=[])
    colour, width = (style.GREEN, 2.4) if is_right else (style.HAIRLINE, 0.6)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=width)
    if is_right:
        axes.annotate(
            TICK, (0.97, 0.97), xycoords="axes fraction", color="white", bbox=_BADGE, **_CENTRED, **_TICK_STYLE
        )


def _line(axes: Axes, y: float, caption: str, is_right: bool) -> None:
    colour, weight = (style.GREEN, "bold") if is_right else (style.INK, "normal")
    if is_right:
        axes.text(0, y, TICK, color=colour, va="center_baseline", **_TICK_STYLE)
    axes.text(0.035, y, textwrap.shorten(caption, 62), color=colour, weight=weight, va="center_baseline", size=8)


def _blank(axes: Axes) -> Axes:
    """Axes from 0 to 1 that only hold text."""
    axes.axis("off")
    return axes
