"""The shipped data set: readable without TensorFlow, split by family, free of duplicates, whole in every language."""

import io
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmjax.data.emoji
from mmjax.data.emoji.families import ALIKE, PARTS, family_of, part_of
from mmjax.data.emoji.splits import NAMED_SPLITS
from mmjax.data.records import caption_id
from mmjax.data.sources.specs import open_source
from mmjax.data.sources.tfds_folder import open_builder, open_split

HERE = Path(mmjax.data.emoji.__file__).parent
VENDORS = ("noto", "twemoji", "fluent")


@pytest.fixture(scope="module")
def examples() -> dict[str, list[dict]]:
    """{split: its examples as stored}."""
    builder = open_builder(HERE / "dataset")
    return {split: list(open_split(builder, split, "emoji", "image", ())) for split in builder.info.splits}


def test_tfds_reads_it_without_tensorflow() -> None:
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"source = tfds.builder_from_directory({str(HERE / 'dataset')!r}).as_data_source('noto_fit')\n"
        "assert source[0]['image'].shape == (64, 64, 3), source[0]\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print(len(source))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1425"


def test_counts_are_those_of_the_data_card(examples: dict) -> None:
    sizes = {"fit": 1425, "validation": 216, "heldout": 190}
    assert {split: len(rows) for split, rows in examples.items()} == {
        f"{vendor}_{part}": sizes[part] for vendor in VENDORS for part in PARTS
    }
    card = (HERE / "DATACARD.md").read_text(encoding="utf-8")
    for split in NAMED_SPLITS:
        assert split in card or split.startswith("unseen_concept_")
        assert f"{len(open_source('emoji', split)):,}" in card


def test_no_family_is_in_two_parts(examples: dict) -> None:
    parts = defaultdict(set)
    for split, rows in examples.items():
        for row in rows:
            parts[row["family"]].add(split.split("_")[1])
    assert all(len(found) == 1 for found in parts.values())
    assert len(parts) == 1626


def test_the_shipped_families_and_parts_follow_the_rule(examples: dict) -> None:
    rows = [(part, row) for part in PARTS for row in examples[f"noto_{part}"]]
    families = [family_of(row["label"].decode(), row["subgroup"].decode()) for _, row in rows]
    assert families == [row["family"].decode() for _, row in rows]
    assert [part_of(family) for family in families] == [part for part, _ in rows]
    assert set(ALIKE) <= {row["label"].decode() for _, row in rows}


def test_every_vendor_draws_the_same_concepts(examples: dict) -> None:
    for part in PARTS:
        concepts = [[row["concept_id"] for row in examples[f"{vendor}_{part}"]] for vendor in VENDORS]
        assert concepts[0] == concepts[1] == concepts[2]


@pytest.mark.parametrize("vendor", VENDORS)
def test_no_two_concepts_of_a_vendor_are_the_same_image(examples: dict, vendor: str) -> None:
    rows = [row for part in PARTS for row in examples[f"{vendor}_{part}"]]
    pixels = Counter(np.asarray(Image.open(io.BytesIO(row["image"]))).tobytes() for row in rows)
    assert max(pixels.values()) == 1


def test_captions_tell_concepts_apart(examples: dict) -> None:
    labels = [row["label"].decode() for part in PARTS for row in examples[f"noto_{part}"]]
    assert len(set(labels)) == len({caption_id(label) for label in labels}) == 1831


def test_every_language_names_every_concept(examples: dict) -> None:
    hexcodes = {row["hexcode"].decode() for part in PARTS for row in examples[f"noto_{part}"]}
    paths = sorted((HERE / "captions").glob("*.json"))
    assert len(paths) == 28
    for path in paths:
        captions = json.loads(path.read_text(encoding="utf-8"))
        assert set(captions) == hexcodes
        assert all(label.strip() for label, _ in captions.values())


def test_licences_travel_with_the_data() -> None:
    attribution = (HERE / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for name in ("Apache-2.0", "CC-BY 4.0", "MIT"):
        assert name in attribution
    assert len(list((HERE / "licences").glob("*.txt"))) == 5
