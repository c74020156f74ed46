"""What the model card of one kind of model says otherwise than that of another."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Parts(NamedTuple):
    """Of one card.

    library, task, tag: what the hub sorts it by.
    what: what the model is, in a few words.
    usage: Python that runs beside the folder, which it calls DIR.
    inputs: sentences on texts and images.
    columns, rows: the table of the evaluation; no rows where none is recorded.
    """

    library: str
    task: str
    tag: str
    what: str
    usage: str
    inputs: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def percent(share: float | None) -> str:
    """A dash where it was not measured."""
    return "-" if share is None else f"{share:.1%}"


def images_in_words(preprocess: Mapping[str, Any]) -> str:
    """How images become pixels."""
    height, width = preprocess["image_size"], preprocess.get("image_width") or preprocess["image_size"]
    how = {"squash": "scaled to", "crop": "scaled by the shorter side and cut in the middle to"}[preprocess["resize"]]
    turned = "turned upright, transparent parts on white"
    return f"{turned}, {how} {height} x {width} pixels ({preprocess['interpolation']})"
