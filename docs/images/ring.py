"""Draws `ring.svg`: which tile of logits each device computes in which step of a ring, and what travels meanwhile.

    python docs/images/ring.py

The order is that of `mmjax.parallel.collectives.Ring`, by the same formula.
"""

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

DEVICES, TILES = 4, 2
STEPS = (0, 1, 2, 3, 7)
COLORS = ("#4477aa", "#66ccee", "#228833", "#ccbb44")
NOW, DONE, OPEN = "#222222", "#c9ced6", "#ffffff"


def home(device: int, step: int) -> int:
    """Whose tile `device` visits in `step`."""
    turn, tile = divmod(step, TILES)
    return (device - turn - (tile == TILES - 1)) % DEVICES


def column(device: int, step: int) -> int:
    """The column of tiles that `device` visits in `step`."""
    return home(device, step) * TILES + step % TILES


def main() -> None:
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "ring", "svg.fonttype": "none", "font.family": "DejaVu Sans"})
    figure, axes = plt.subplots(1, len(STEPS), figsize=(11, 3.0))
    for axis, step in zip(axes, STEPS, strict=True):
        draw_step(axis, step)
    axes[0].set_ylabel("images: rows stay with their device")
    figure.suptitle(
        "Tiles of logits of four devices with two tiles of texts each: dark is computed now, grey is done and not kept",
        fontsize=10,
    )
    below = "Below, what each device passes on meanwhile, in the colour of its home; hatched is the second tile."
    figure.text(0.5, 0.02, below, ha="center", fontsize=9)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(Path(__file__).with_name("ring.svg"), metadata={"Date": None})
    plt.close(figure)


def draw_step(axis: Axes, step: int) -> None:
    """The matrix of logits, with the home of each tile of texts above it and the tiles on their way below."""
    columns = DEVICES * TILES
    for device in range(DEVICES):
        done = {column(device, before) for before in range(step)}
        for place in range(columns):
            color = NOW if place == column(device, step) else DONE if place in done else OPEN
            axis.add_patch(Rectangle((place, DEVICES - 1 - device), 1, 1, facecolor=color, edgecolor="#8a8f98", lw=0.6))
        axis.add_patch(Rectangle((-0.75, DEVICES - 1 - device), 0.5, 1, facecolor=COLORS[device]))
    for place in range(columns):
        axis.add_patch(Rectangle((place, DEVICES + 0.15), 1, 0.4, facecolor=COLORS[place // TILES], edgecolor="white"))
    for device in range(DEVICES):
        draw_sent(axis, step, device)
    axis.set(xlim=(-0.9, columns + 0.1), ylim=(-2.1, DEVICES + 0.7), xticks=[], yticks=[])
    axis.set_title(f"step {step + 1} of {columns}", fontsize=9)
    for spine in axis.spines.values():
        spine.set_visible(False)


def draw_sent(axis: Axes, step: int, device: int) -> None:
    """Below: the tile that `device` passes to the next one while it computes, in the colour of its home."""
    x, tile = 2.0 * device + 0.5, (step - 1) % TILES
    color = COLORS[home(device, step - 1)] if step else COLORS[device]
    axis.add_patch(
        Rectangle((x, -1.35), 0.6, 0.6, facecolor=color, hatch="" if tile == 0 else "///", edgecolor="white")
    )
    arrow = {"arrowstyle": "-|>", "mutation_scale": 8, "color": "#555555", "lw": 1}
    axis.add_patch(FancyArrowPatch((x + 0.65, -1.05), (x + 1.85, -1.05), **arrow))
    axis.text(x + 0.3, -1.75, f"{device}", ha="center", va="center", fontsize=8, color="#555555")


if __name__ == "__main__":
    main()
