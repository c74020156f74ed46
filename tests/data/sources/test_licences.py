"""The licence of each image is read where every kind of source has it, and is "" where nothing is said."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import tensorflow_datasets as tfds

from mmjax.data.records import BadRecord
from mmjax.data.sources.specs import open_source
from mmjax.data.tfds_writer import Description, write_directory
from mmjax.errors import UserError
from tests.data.sources.tiny_tars import sample, write_tar
from tests.data.tiny_sources import png

SAID = ["cc0", None, "by"]


def tars(folder: Path) -> str:
    members = [
        member
        for number, licence in enumerate(SAID)
        for member in sample(f"{number}", number, **({} if licence is None else {"license": licence}))
    ]
    write_tar(folder / "0.tar", members)
    return f"wds:{folder}/0.tar"


def rows() -> list[dict]:
    return [
        {"image": png(number), "text": f"thing {number}", "license": licence} for number, licence in enumerate(SAID)
    ]


def table(folder: Path) -> str:
    for number in range(len(SAID)):
        (folder / f"{number}.png").write_bytes(png(number))
    lines = [{**row, "image": f"{number}.png", "file_name": f"{number}.png"} for number, row in enumerate(rows())]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return f"jsonl:{folder}/metadata.jsonl"


def folder_of_images(folder: Path) -> str:
    table(folder)
    return f"imagefolder:{folder}"


def saved(folder: Path) -> str:
    datasets.Dataset.from_list(rows()).save_to_disk(str(folder / "saved"))
    return f"hfds:{folder}/saved"


def labelled(folder: Path) -> str:
    """Two of them as numbers of classes."""
    labels = datasets.ClassLabel(names=["by", "cc0"])
    kinds = datasets.Features({"image": datasets.Value("binary"), "text": datasets.Value("string"), "license": labels})
    datasets.Dataset.from_list(rows(), features=kinds).save_to_disk(str(folder / "saved"))
    return f"hfds:{folder}/saved"


def directory(folder: Path) -> str:
    text = tfds.features.Text()
    kinds = tfds.features.FeaturesDict({"image": tfds.features.Image(), "text": text, "license": text})
    examples = [{**row, "license": row["license"] or ""} for row in rows()]
    write_directory(folder / "1.0.0", Description("own", "1.0.0", "tiny"), kinds, {"train": examples})
    return f"tfds:{folder}/1.0.0"


@pytest.mark.parametrize("write", [tars, table, folder_of_images, saved, labelled, directory])
def test_a_licence_is_what_the_data_says(write, tmp_path: Path) -> None:
    spec = write(tmp_path)
    key = "json/license" if spec.startswith("wds:") else "license"
    source = open_source(spec, "train", licence_key=key)
    assert [source[number].licence for number in range(len(SAID))] == ["cc0", "", "by"]
    assert [source[number].captions for number in range(len(SAID))] == [(f"thing {number}",) for number in range(3)]
    assert {open_source(spec, "train")[number].licence for number in range(len(SAID))} == {""}
    with pytest.raises(UserError, match="licence_key '?.*licens.*'? does not exist"):
        open_source(spec, "train", licence_key="licens")


def test_a_class_label_below_zero_says_nothing(tmp_path: Path) -> None:
    """And not the last of the names."""
    labels = datasets.ClassLabel(names=["cc0", "by"])
    kinds = datasets.Features({"image": datasets.Value("binary"), "text": datasets.Value("string"), "license": labels})
    of_hf = [{**row, "license": number - 1} for number, row in enumerate(rows())]
    datasets.Dataset.from_list(of_hf, features=kinds).save_to_disk(str(tmp_path / "saved"))
    source = open_source(f"hfds:{tmp_path}/saved", "train", licence_key="license")
    assert [source[number].licence for number in range(3)] == ["", "cc0", "by"]


def test_a_class_that_is_not_known_is_neither_a_caption_nor_a_class(tmp_path: Path) -> None:
    kinds = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
    )
    examples = [{"image": png(0), "text": "x", "label": label} for label in (1, -1)]
    write_directory(tmp_path / "1.0.0", Description("own", "1.0.0", "tiny"), kinds, {"train": examples})
    labels = datasets.Features(
        {
            "image": datasets.Value("binary"),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    datasets.Dataset.from_list(examples, features=labels).save_to_disk(str(tmp_path / "saved"))
    for spec in (f"tfds:{tmp_path}/1.0.0", f"hfds:{tmp_path}/saved"):
        source = open_source(spec, "train")
        assert [source[number].class_name for number in range(2)] == ["b", None]
        named = open_source(spec, "train", text_key="label")
        assert named[0].captions == ("b",)
        with pytest.raises(BadRecord, match="caption"):
            named[1]


def test_licences_of_tfds_are_texts_lists_numbers_or_nested(tmp_path: Path) -> None:
    text, number = tfds.features.Text(), tfds.features.Scalar(dtype=np.int64)
    about = {"license": text, "number": number, "all": tfds.features.Sequence(text)}
    kinds = tfds.features.FeaturesDict({"image": tfds.features.Image(), "text": text, "about": about})
    examples = [{"image": png(0), "text": "a", "about": {"license": "cc0", "number": 3, "all": ["cc0", "by"]}}]
    write_directory(tmp_path / "1.0.0", Description("own", "1.0.0", "tiny"), kinds, {"train": examples})
    spec = f"tfds:{tmp_path}/1.0.0"
    for key, said in {"about/license": "cc0", "about/number": "3", "about/all": "cc0, by"}.items():
        assert open_source(spec, "train", licence_key=key)[0].licence == said
    for setting, key in (("licence_key", "about/licence"), ("text_key", "about/nope"), ("image_key", "about/image")):
        with pytest.raises(UserError, match="does not exist"):
            open_source(spec, "train", **{setting: key})


def test_a_licence_of_a_member_of_its_own(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [*sample("a", 1), ("a.license", b"cc0\n"), *sample("b", 2)])
    source = open_source(f"wds:{tmp_path}/0.tar", "train", licence_key="license")
    assert [source[number].licence for number in range(2)] == ["cc0", ""]


def test_emoji_have_none_of_their_own() -> None:
    with pytest.raises(UserError, match="the emoji have none"):
        open_source("emoji", "train", licence_key="license")
