"""What became of a source: numbers for scripts, and a sheet of pictures for people."""

import hashlib
import json
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data import preprocess
from mmjax.data.licence import licence_of
from mmjax.data.prepare.facts import KEPT, UNREADABLE, Facts
from mmjax.data.prepare.settings import Settings
from mmjax.data.records import BadRecord, Source
from mmjax.data.tfds_writer import ShardSize
from mmjax.whole_files import whole

MANIFEST, SHEET = "manifest.json", "samples.png"
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
COLUMNS, KEPT_ROWS, DROPPED_ROWS = 6, 3, 2
THUMBNAIL = 160


def manifest(
    settings: Settings, parts: Sequence[Facts], reasons: np.ndarray, sizes: Sequence[ShardSize], folder: Path
) -> dict[str, Any]:
    """The yield, why records were dropped, what the kept ones are, and the hashes of all files."""
    kept = reasons == KEPT
    sides = np.concatenate([part.sides for part in parts])[kept]
    columns = {name: np.concatenate([getattr(part, name) for part in parts])[kept] for name in _COLUMNS}
    return {
        "settings": settings.to_dict(),
        "records": len(reasons),
        "kept": int(kept.sum()),
        "yield": float(kept.mean()),
        "dropped": dropped(reasons),
        UNREADABLE: [said for part in parts for said in part.said.tolist()],
        "licence": licence_of(settings.source),
        "captions": {
            "chars": percentiles(columns["chars"]),
            "words": percentiles(columns["words"]),
            "languages": shares(columns["languages"]),
        },
        "images": {
            "shorter_side": percentiles(sides.min(1) if len(sides) else sides[:, 0]),
            "longer_side": percentiles(sides.max(1) if len(sides) else sides[:, 0]),
            "formats": shares(columns["formats"]),
        },
        "files": [_file(path, size) for path, size in zip(shard_paths(folder, settings), sizes, strict=True)],
    }


def dropped(reasons: np.ndarray) -> dict[str, int]:
    """How many records for what, the most first."""
    return dict(Counter(reasons[reasons != KEPT].tolist()).most_common())


def in_words(counts: Mapping[str, int]) -> str:
    """Of what `dropped` counted."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none"


_COLUMNS = ("chars", "words", "languages", "formats")


def shard_paths(folder: Path, settings: Settings) -> list[Path]:
    """The shards, in their order."""
    return sorted(folder.glob(f"{settings.name}-train.array_record-?????-of-?????"))


def _file(path: Path, size: ShardSize) -> Mapping[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "records": size.num_examples, "bytes": path.stat().st_size, "sha256": digest}


def percentiles(values: np.ndarray) -> dict[str, float]:
    """By their number, "50" the median."""
    if not len(values):
        return {}
    return {
        str(name): float(value) for name, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)
    }


def shares(values: np.ndarray) -> dict[str, float]:
    """Of each value, the largest first."""
    return {str(value): count / len(values) for value, count in Counter(values.tolist()).most_common()}


def write_manifest(folder: Path, values: Mapping[str, Any]) -> None:
    """Whole or not at all: a folder that has it is finished."""
    with whole(folder / MANIFEST) as unfinished:
        unfinished.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
