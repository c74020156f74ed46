"""Small data sets on disk."""

import json
from pathlib import Path

import pytest

from mmjax.data.emoji.concepts import Concept
from mmjax.data.emoji.write import Drawing, write_dataset
from tests.data.tiny_sources import png


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Twelve images with captions; line 3 is not JSON, image 5 is missing, caption 7 is empty, image 9 is cut off."""
    lines = [json.dumps({"file_name": f"{index}.png", "text": f"thing {index}"}) for index in range(12)]
    lines[3] = "{not json"
    lines[7] = json.dumps({"file_name": "7.png", "text": " "})
    for index in range(12):
        (tmp_path / f"{index}.png").write_bytes(png(index)[: 60 if index == 9 else None])
    (tmp_path / "5.png").unlink()
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def tfds_folder(tmp_path: Path) -> Path:
    """A data set of one shard a split, as TFDS writes it."""
    concepts = [Concept(n, f"{n:X}", f"label {n}", ("tag",), "group", "subgroup", "family") for n in range(6)]
    drawings = [Drawing(concept, "vendor", png(concept.concept_id, (8, 8))) for concept in concepts]
    write_dataset(tmp_path / "own" / "1.0.0", {"train": drawings[:4], "test": drawings[4:]}, 8)
    return tmp_path / "own"
