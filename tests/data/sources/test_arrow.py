"""What `datasets` saved, and Parquet files: records by number, images as they are stored."""

import io
import sys
from pathlib import Path

import datasets
import pytest
from PIL import Image

from mmjax.data.records import BadRecord
from mmjax.data.sources.specs import list_splits, open_source
from mmjax.errors import UserError
from tests.data.tiny_sources import png

NUM_ROWS = 6
LABELS = datasets.ClassLabel(names=["red", "round"])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def rows(numbers: range) -> datasets.Dataset:
    """Images of their own, the caption "thing NUMBER" in two forms, and a class label."""
    content = {
        "image": [{"bytes": png(number), "path": None} for number in numbers],
        "text": [f"thing {number}" for number in numbers],
        "captions": [{"en": [f"thing {number}", "a thing"], "de": None} for number in numbers],
        "label": [number % 2 for number in numbers],
        "size": [number for number in numbers],
    }
    table = datasets.Dataset.from_dict(content)
    return table.cast_column("image", datasets.Image()).cast_column("label", LABELS)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    splits = {"train": rows(range(4)), "test": rows(range(4, NUM_ROWS))}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def write_parquet(folder: Path) -> str:
    for part, numbers in enumerate((range(4), range(4, NUM_ROWS))):
        rows(numbers).to_parquet(str(folder / f"{part}.parquet"))
    return f"parquet:{folder}/{{0..1}}.parquet"


def test_saved_splits_and_their_parts(saved: Path) -> None:
    spec = f"hfds:{saved}"
    assert sorted(list_splits(spec)) == ["test", "train"]
    numbers = {"train": range(4), "test": range(4, 6), "train[1:3]": range(1, 3), "test[50%:]": range(5, 6)}
    for split, expected in numbers.items():
        source = open_source(spec, split)
        records = [source[place] for place in range(len(source))]
        assert [record.image for record in records] == [png(number) for number in expected]
        assert [record.captions for record in records] == [(f"thing {number}",) for number in expected]
    assert records[0].class_name == "round"


def test_captions_come_from_lists_fields_and_labels(saved: Path) -> None:
    spec = f"hfds:{saved}"
    expected = {"captions/en": ("thing 1", "a thing"), "label": ("round",)}
    assert {key: open_source(spec, "train", text_key=key)[1].captions for key in expected} == expected
    for key, reason in {"captions/de": "None", "captions/fr": "no 'captions/fr'", "size": "is 1, not a text"}.items():
        with pytest.raises(BadRecord, match=reason):
            open_source(spec, "train", text_key=key)[1]
    assert open_source(spec, "train", image_key="")[0].image is None


def test_a_data_set_without_splits_is_train(tmp_path: Path) -> None:
    rows(range(3)).save_to_disk(str(tmp_path / "one"))
    assert list_splits(f"hfds:{tmp_path}/one") == ("train",)
    assert open_source(f"hfds:{tmp_path}/one", "train")[2].captions == ("thing 2",)


def test_parquet_files_in_their_order(tmp_path: Path) -> None:
    spec = write_parquet(tmp_path)
    source = open_source(spec, "train")
    assert [source[number].captions[0] for number in range(len(source))] == [f"thing {n}" for n in range(NUM_ROWS)]
    assert [source[number].image for number in range(NUM_ROWS)] == [png(number) for number in range(NUM_ROWS)]
    assert open_source(spec, "train[4:]")[0].captions == ("thing 4",)
    with pytest.raises(IndexError):
        source[NUM_ROWS]


def test_images_may_be_bytes_or_paths(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(png(1))
    content = {"jpg": [png(0), b""], "path": ["images/1.png", "images/2.png"], "text": ["a", "b"]}
    datasets.Dataset.from_dict(content).to_parquet(str(tmp_path / "a.parquet"))
    spec = f"parquet:{tmp_path}/a.parquet"
    assert open_source(spec, "train", image_key="jpg")[0].image == png(0)
    by_path = open_source(spec, "train", image_key="path")
    assert Image.open(io.BytesIO(by_path[0].image)).size == (20, 16)
    with pytest.raises(BadRecord, match=r"2.png cannot be read"):
        by_path[1]


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("hfds:{saved}", {"split": "tst"}, "split 'tst' does not exist: did you mean test"),
        ("hfds:{saved}", {"split": "train[4:]"}, "is empty: choose a larger part of the 4 records"),
        ("hfds:{saved}", {"text_key": "texts"}, "data.text_key 'texts' does not exist: did you mean text"),
        ("hfds:{saved}", {"image_key": "img"}, "data.image_key 'img' does not exist: did you mean image"),
        ("hfds:/nowhere", {}, "data folder /nowhere does not exist: check"),
        ("hfds:{saved}/..", {}, "cannot be read"),
        ("parquet:/nowhere/*.parquet", {}, "no file fits /nowhere/*.parquet"),
        ("parquet:{saved}/dataset_dict.json", {}, "cannot be read as Parquet"),
    ],
)
def test_errors_are_one_line_with_the_remedy(spec: str, options: dict, message: str, saved: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_source(spec.format(saved=saved), options.pop("split", "train"), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package_one_line_names_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs datasets: pip install -r requirements-hf.txt"):
        open_source(f"hfds:{saved}", "train")
