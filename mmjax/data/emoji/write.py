"""Writes the emoji data set: a TFDS-style directory of ArrayRecord shards, and one caption file per language."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.data.emoji.concepts import Concept
from mmjax.data.tfds_writer import Description, write_directory

ABOUT = Description(
    "emoji", "1.0.0", "Emoji concepts drawn by three vendors (Noto, Twemoji, Fluent 3D), captioned in many languages."
)


@dataclass(frozen=True)
class Drawing:
    """One record: a concept as one vendor draws it, `image` being WebP bytes."""

    concept: Concept
    vendor: str
    image: bytes


def write_dataset(folder: Path, splits: Mapping[str, Sequence[Drawing]], image_size: int) -> None:
    """Writes {split: drawings} under `folder`, see `write_directory`."""
    examples = {split: map(_example, drawings) for split, drawings in splits.items()}
    write_directory(folder, ABOUT, _features(image_size), examples)


def _features(image_size: int) -> Any:
    import numpy as np
    import tensorflow_datasets as tfds

    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(image_size, image_size, 3), doc="the drawing on white"),
            "label": text(doc="English name"),
            "tags": tfds.features.Sequence(text(), doc="English key words"),
            "hexcode": text(doc="code points without variation selectors"),
            "concept_id": tfds.features.Scalar(dtype=np.int32, doc="equal for one concept drawn by several vendors"),
            "family": text(doc="near-duplicate concepts, never split between parts"),
            "vendor": text(),
            "group": text(),
            "subgroup": text(),
        }
    )


def _example(drawing: Drawing) -> dict[str, Any]:
    concept = drawing.concept
    return {
        "image": drawing.image,
        "label": concept.label,
        "tags": list(concept.tags),
        "hexcode": concept.hexcode,
        "concept_id": concept.concept_id,
        "family": concept.family,
        "vendor": drawing.vendor,
        "group": concept.group,
        "subgroup": concept.subgroup,
    }


def write_captions(path: Path, captions: Mapping[str, tuple[str, Sequence[str]]], concepts: Iterable[Concept]) -> None:
    """Writes one language's {hexcode: [label, tags]} as JSON, a concept a line, in the concepts' order."""
    lines = [f'"{one.hexcode}": {json.dumps(captions[one.hexcode], ensure_ascii=False)}' for one in concepts]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
