"""What became of a source: numbers for scripts, and a sheet of pictures for people."""

import json
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data import preprocess
from mmjax.data.licence import licence_of
from mmjax.data.prepare.facts import KEPT, UNREADABLE, Facts
from mmjax.data.prepare.settings import Settings
from mmjax.data.prepare.shards import Shard
from mmjax.data.records import BadRecord, Source

MANIFEST, SHEET = "manifest.json", "samples.png"
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
COLUMNS, KEPT_ROWS, DROPPED_ROWS = 6, 3, 2
THUMBNAIL = 160


def manifest(
    settings: Settings, parts: Iterable[Facts], reasons: np.ndarray, written: Sequence[Shard]
) -> dict[str, Any]:
    """The yield, why records were dropped, what the kept ones are, and the hashes of all files."""
    kept = reasons == KEPT
    seen = _Seen()
    for part in parts:
        seen.add(part, kept[part.start : part.start + len(part.reasons)])
    return {
        "settings": settings.to_dict(),
        "records": len(reasons),
        "kept": int(kept.sum()),
        "yield": float(kept.mean()),
        "dropped": dropped(reasons),
        UNREADABLE: seen.said,
        "licence": licence_of(settings.source),
        "licences": shares(seen.names["licences"]) if settings.licence_key else {},
        "captions": {
            "chars": percentiles(seen.numbers["chars"]),
            "words": percentiles(seen.numbers["words"]),
            "languages": shares(seen.names["languages"]),
        },
        "images": {
            "shorter_side": percentiles(seen.numbers["shorter_side"]),
            "longer_side": percentiles(seen.numbers["longer_side"]),
            "formats": shares(seen.names["formats"]),
        },
        "files": [shard._asdict() for shard in written],
    }


class _Seen:
    """What is said of the records that are kept: numbers of each of them, counts of names, and what was unreadable."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[np.ndarray]] = defaultdict(list)
        self.names: dict[str, Counter[str]] = defaultdict(Counter)
        self.said: list[str] = []

    def add(self, part: Facts, kept: np.ndarray) -> None:
        sides = np.sort(part.sides[kept], axis=1)
        numbers = {"chars": part.chars[kept], "words": part.words[kept]}
        for name, values in (numbers | {"shorter_side": sides[:, 0], "longer_side": sides[:, 1]}).items():
            self.numbers[name].append(values)
        for name in ("languages", "licences", "formats"):
            self.names[name].update(getattr(part, name)[kept].tolist())
        self.said += part.said.tolist()


def dropped(reasons: np.ndarray) -> dict[str, int]:
    """How many records for what, the most first."""
    return dict(Counter(reasons[reasons != KEPT].tolist()).most_common())


def in_words(counts: Mapping[str, int]) -> str:
    """Of what `dropped` counted."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none"


def percentiles(parts: Sequence[np.ndarray]) -> dict[str, float]:
    """Of the values of all parts, by their number, "50" the median."""
    values = np.percentile(np.concatenate(parts), PERCENTILES)
    return {str(name): float(value) for name, value in zip(PERCENTILES, values, strict=True)}


def shares(counts: Counter[str]) -> dict[str, float]:
    """Of each name, the largest first."""
    return {name: count / counts.total() for name, count in counts.most_common()}


def as_bytes(values: Mapping[str, Any]) -> bytes:
    """JSON for scripts, and for people."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def draw_sheet(path: Path, source: Source, reasons: np.ndarray) -> None:
    """Kept pairs, spread over the source, and below them dropped ones with the reason."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    kept = _spread(np.flatnonzero(reasons == KEPT), COLUMNS * KEPT_ROWS)
    dropped = _spread(np.flatnonzero((reasons != KEPT) & (reasons != UNREADABLE)), COLUMNS * DROPPED_ROWS)
    num_rows = -(-len(kept) // COLUMNS) + -(-len(dropped) // COLUMNS)
    figure, axes = pyplot.subplots(max(num_rows, 1), COLUMNS, figsize=(13, 2.7 * max(num_rows, 1)), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for first_row, numbers in ((0, kept), (-(-len(kept) // COLUMNS), dropped)):
        for place, number in enumerate(numbers):
            _draw(axes[first_row + place // COLUMNS, place % COLUMNS], source, int(number), str(reasons[number]))
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _draw(axis: Any, source: Source, number: int, reason: str) -> None:
    try:
        record = source[number]
        image = preprocess.decode(record.image)
    except BadRecord:
        return
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    axis.imshow(np.asarray(image))
    caption = "\n".join(textwrap.wrap(record.captions[0], 28)[:3]).replace("$", r"\$")
    axis.set_title(
        f"dropped: {reason}\n{caption}" if reason else caption, fontsize=8, color="#b3261e" if reason else "k"
    )


def _spread(numbers: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, the first and the last among them."""
    if len(numbers) <= most:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, most).round().astype(int)]
