import io
import json
import os
import pickletools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.errors import UserError
from mmjax.serving import index
from mmjax.serving.__main__ import main as serve
from mmjax.serving.model import Embedder
from mmjax.serving.search import SearchIndex
from tests.serving.folders import encoded, picture, write_image_folder, write_model


def build(model: Path, data: str, out: Path, *options: str) -> Path:
    index.main(["--model", str(model), "--data", data, "--out", str(out), *options])
    return out


def copy_of(folder: Path, out: Path) -> Path:
    return Path(shutil.copytree(folder, out))


def test_rows_are_the_records_in_order(index_folder: Path, embedder: Embedder) -> None:
    opened = SearchIndex(index_folder, embedder.fingerprint)
    for row in range(12):
        embed = embedder.encode_images(embedder.prepare_image(picture(row)))
        (hits,) = opened.find("images", embed, 1)
        assert hits[0].row == row
        assert hits[0].score == pytest.approx(1, abs=1e-5)
        assert opened.images[row]["captions"] == [f"picture {row}", f"item of {row % 3}"]
        thumbnail = opened.thumbnail(row)
        assert thumbnail is not None
        assert Image.open(io.BytesIO(thumbnail)).size == (40, 30)
    assert [line["text"] for line in opened.texts][:4] == ["picture 0", "item of 0", "picture 1", "item of 1"]
    assert opened.thumbnail(12) is opened.thumbnail(-1) is None
    opened.close()


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_approximate_indexes_find_nearly_all(kind: str) -> None:
    rng = np.random.default_rng(0)
    embeds = rng.normal(size=(2_000, 16)).astype(np.float32)
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    exact, near = index.make_faiss(embeds, "flat"), index.make_faiss(embeds, kind)
    queries = embeds[:100] + 0.1 * rng.normal(size=(100, 16)).astype(np.float32)
    expected, found = exact.search(queries, 10)[1], near.search(queries, 10)[1]
    np.testing.assert_array_equal(expected, np.argsort(-queries @ embeds.T, 1)[:, :10])
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(expected, found, strict=True)])
    assert recall > (0.5 if kind == "ivf" else 0.95)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_kinds_of_index_are_served(
    model_folder: Path, data_folder: Path, embedder: Embedder, tmp_path: Path, kind: str
) -> None:
    out = build(model_folder, f"imagefolder:{data_folder}", tmp_path / "index", "--kind", kind)
    opened = SearchIndex(out, embedder.fingerprint)
    embed = embedder.encode_images(embedder.prepare_image(picture(4)))
    assert opened.facts["kind"] == kind
    assert opened.find("images", embed, 100)[0][0].row == 4


def test_no_file_is_a_pickle_and_none_tells_a_path(index_folder: Path) -> None:
    assert {path.name for path in index_folder.iterdir()} == {
        *("index.json", "images.faiss", "texts.faiss", "images.jsonl", "texts.jsonl", "thumbnails.bin")
    }
    for path in index_folder.iterdir():
        data = path.read_bytes()
        assert str(index_folder.parent).encode() not in data
        assert not data.startswith((b"\x80", b"PK", b"\x93NUMPY"))
        with pytest.raises((ValueError, IndexError)):
            list(pickletools.genops(data))


def test_an_index_of_another_model_is_refused(index_folder: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="another model.*build it again"):
        serve(["--model", str(other), "--index", str(index_folder), "--port", "0"])


DAMAGES = [
    (name, how)
    for name in ("index.json", "images.faiss", "texts.jsonl", "thumbnails.bin")
    for how in ("missing", "link", "cut off", "nonsense")
    # A thumbnail of nonsense is a broken picture on the page, and nothing else.
    if (name, how) != ("thumbnails.bin", "nonsense")
]


@pytest.mark.parametrize(("name", "how"), DAMAGES)
def test_damaged_indexes_are_user_errors(
    index_folder: Path, embedder: Embedder, tmp_path: Path, name: str, how: str
) -> None:
    path = copy_of(index_folder, tmp_path / "copy") / name
    data = path.read_bytes()
    path.unlink()
    if how == "link":
        path.symlink_to(index_folder / name)
    elif how != "missing":
        path.write_bytes(data[: len(data) // 2] if how == "cut off" else b"nonsense" * 200)
    with pytest.raises(UserError, match="build it again"):
        SearchIndex(path.parent, embedder.fingerprint)


def test_files_of_different_indexes_are_refused(
    index_folder: Path, model_folder: Path, embedder: Embedder, tmp_path: Path
) -> None:
    data = write_image_folder(tmp_path / "few", 5)
    few = build(model_folder, f"imagefolder:{data}", tmp_path / "index")
    shutil.copy(index_folder / "images.faiss", few)
    with pytest.raises(UserError, match="do not belong together"):
        SearchIndex(few, embedder.fingerprint)


def test_bad_records_are_skipped_and_named(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_image_folder(tmp_path / "data", 4)
    (data / "1.png").write_bytes(b"broken")
    (data / "2.png").unlink()
    out = build(model_folder, f"imagefolder:{data}", tmp_path / "index")
    facts = json.loads((out / "index.json").read_text())
    assert (facts["num_images"], facts["num_skipped"]) == (2, 2)
    assert "skipped record 1" in capsys.readouterr().err


def test_images_outside_the_folder_are_not_taken(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither by "..", nor by an absolute path, nor by a link."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(picture(99)))
    data = write_image_folder(tmp_path / "data", 2)
    (data / "link.png").symlink_to(secret)
    names = ["../secret.png", str(secret), "link.png"]
    lines = [json.dumps({"file_name": name, "text": "secret"}) for name in names]
    metadata = data / "metadata.jsonl"
    metadata.write_text(metadata.read_text() + "\n" + "\n".join(lines))
    out = build(model_folder, f"imagefolder:{data}", tmp_path / "index")
    assert json.loads((out / "index.json").read_text())["num_images"] == 2
    assert b"secret" not in (out / "images.jsonl").read_bytes()
    assert capsys.readouterr().err.count("lies outside") == 3


def test_thumbnails_carry_no_metadata(model_folder: Path, tmp_path: Path) -> None:
    data = write_image_folder(tmp_path / "data", 1)
    exif = picture(0).getexif()
    exif[0x010E] = "taken at home"
    (data / "0.png").write_bytes(encoded(picture(0), exif=exif))
    out = build(model_folder, f"imagefolder:{data}", tmp_path / "index")
    assert b"taken at home" not in (out / "thumbnails.bin").read_bytes()


def test_nothing_is_left_of_a_build_that_failed(model_folder: Path, tmp_path: Path) -> None:
    data = write_image_folder(tmp_path / "data", 1)
    (data / "0.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="none of the records"):
        build(model_folder, f"imagefolder:{data}", tmp_path / "index")
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("imagefolder:/nowhere", "does not exist"),
        ("imagefolder", "incomplete"),
        ("lance:x", "does not exist"),
        ("emoji:x", "incomplete"),
    ],
)
def test_bad_specifications_are_user_errors(model_folder: Path, tmp_path: Path, data: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(model_folder, data, tmp_path / "index")


def test_an_existing_folder_is_kept(model_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists"):
        build(model_folder, f"imagefolder:{data_folder}", tmp_path)


def test_splits_are_chosen_by_name(model_folder: Path, tmp_path: Path) -> None:
    write_image_folder(tmp_path / "data" / "test", 3)
    write_image_folder(tmp_path / "data" / "train", 2)
    data = f"imagefolder:{tmp_path / 'data'}"
    assert json.loads((build(model_folder, data, tmp_path / "a") / "index.json").read_text())["num_images"] == 2
    out = build(model_folder, data, tmp_path / "b", "--split", "test")
    assert json.loads((out / "index.json").read_text())["num_images"] == 3
    with pytest.raises(UserError, match="did you mean test"):
        build(model_folder, data, tmp_path / "c", "--split", "tests")
