"""Each kind of source opens, repeats itself, and says in one line what is wrong."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.data.emoji.concepts import Concept
from mmjax.data.emoji.write import Drawing, write_dataset
from mmjax.data.records import BadRecord, caption_id
from mmjax.data.sources.specs import list_splits, open_source
from mmjax.errors import UserError
from tests.data.tiny_sources import png


def test_image_folder_gives_records_and_bad_ones_in_place(image_folder: Path) -> None:
    source = open_source(f"imagefolder:{image_folder}", "train")
    assert len(source) == 12
    record = source[4]
    assert record.captions == ("thing 4",)
    assert record.id == caption_id("Thing 4 ")
    assert np.asarray(Image.open(io.BytesIO(record.image))).shape == (16, 20, 3)
    for index, reason in {3: "not JSON", 5: "cannot be read", 7: "caption is ' '"}.items():
        with pytest.raises(BadRecord, match=reason):
            source[index]


def test_image_folder_with_split_folders_csv_and_several_captions(image_folder: Path) -> None:
    for split in ("train", "test"):
        (image_folder / split).mkdir()
        shutil.copy(image_folder / "0.png", image_folder / split)
    (image_folder / "metadata.jsonl").unlink()
    (image_folder / "train/metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "words": ["a", "b"]}))
    (image_folder / "test/metadata.csv").write_text('file_name,words\n0.png,"a, b"\n')
    spec = f"imagefolder:{image_folder}"
    assert sorted(list_splits(spec)) == ["test", "train"]
    assert open_source(spec, "train", text_key="words")[0].captions == ("a", "b")
    assert open_source(spec, "test", text_key="words")[0].captions == ("a, b",)


def test_tfds_directory_round_trip(tmp_path: Path) -> None:
    concepts = [
        Concept(n, f"{n:X}", f"label {n}", (f"tag {n}", "tag"), "group", "subgroup", "family") for n in range(3)
    ]
    drawings = [Drawing(concept, "vendor", png(concept.concept_id, (8, 8))) for concept in concepts]
    write_dataset(tmp_path / "emoji" / "1.0.0", {"train": drawings[:2], "test": drawings[2:]}, 8)
    spec = f"tfds:{tmp_path}"
    assert list_splits(spec) == ("train", "test")
    records = [record for split in ("train", "test") for record in open_source(spec, split, text_key="label")]
    assert [record.captions for record in records] == [("label 0",), ("label 1",), ("label 2",)]
    assert [record.image for record in records] == [drawing.image for drawing in drawings]
    assert open_source(spec, "train[1:]", text_key="tags")[0].captions == ("tag 1", "tag")


def test_a_data_set_that_tfds_prepared_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Drawing(Concept(1, "1", "label 1", (), "group", "subgroup", "family"), "vendor", png(1, (8, 8)))
    for version in ("1.0.0", "1.1.0"):
        write_dataset(tmp_path / "emoji" / "config" / version, {"train": [drawing]}, 8)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    record = open_source("tfds:emoji/config:1.1.0", "train", text_key="label")[0]
    assert (record.captions, record.name) == (
        ("label 1",),
        f"{tmp_path}/emoji/config/1.1.0 [train] record 0",
    )
    assert list_splits("tfds:emoji/config:1.0.0") == ("train",)
    with pytest.raises(UserError, match="holds several data sets: give one of .*1.0.0, .*1.1.0"):
        open_source("tfds:emoji", "train")


def test_emoji_in_another_language() -> None:
    english, chinese = (open_source("emoji", "noto_fit", locale=locale)[0] for locale in ("en", "zh"))
    assert english.captions[0] == "grinning face"
    assert chinese.captions[0] == "嘿嘿"
    assert english.image == chinese.image
    assert english.class_name == "face smiling"


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("emojis", {}, "data.source 'emojis' does not exist: did you mean emoji"),
        ("tfds:", {}, "data.source 'tfds:' is incomplete: write one of"),
        ("emoji", {"split": "unseen_styl"}, "split 'unseen_styl' does not exist: did you mean unseen_style"),
        ("emoji", {"locale": "zh-han"}, "data.locale 'zh-han' does not exist: did you mean zh-hant"),
        ("tfds:/nowhere", {}, "data folder /nowhere does not exist: check"),
        ("tfds:coco_captions", {}, "tensorflow_datasets has no data set of that name: prepare it with TFDS and"),
        ("imagefolder:/nowhere", {}, "data folder /nowhere does not exist: check"),
        ("tfds:{empty}", {}, "holds no dataset_info.json: give"),
        ("imagefolder:{empty}", {}, "has no metadata.jsonl: write"),
        ("imagefolder:{folder}", {"split": "test"}, "split 'test' does not exist: choose one of train"),
        ("imagefolder:{folder}", {"text_key": "texts"}, "data.text_key 'texts' does not exist: did you mean text"),
        ("tfds:{emoji}", {"text_key": "lable"}, "data.text_key 'lable' does not exist: did you mean label"),
        ("tfds:{emoji}", {"image_key": "images"}, "data.image_key 'images' does not exist: did you mean image"),
        (
            "tfds:{emoji}",
            {"text_key": "label", "split": "fluent"},
            "split 'fluent' does not exist: did you mean fluent_fit",
        ),
    ],
)
def test_errors_are_one_line_with_the_remedy(
    spec: str, options: dict, message: str, image_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    emoji = Path(open_source.__code__.co_filename).parents[1] / "emoji" / "dataset"
    spec = spec.format(empty=tmp_path_factory.mktemp("empty"), folder=image_folder, emoji=emoji)
    with pytest.raises(UserError) as caught:
        open_source(spec, options.pop("split", "train"), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_metadata_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"metadata.jsonl is empty: write a line"):
        open_source(f"imagefolder:{tmp_path}", "train")
