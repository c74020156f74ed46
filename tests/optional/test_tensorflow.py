"""Data sets that TFDS knows by name are read with the features that their builders write; see launch/test_optional.sh.

What is written here by TFDS with TensorFlow is read by the sources that do without it.
"""

import io
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="runs in an environment of its own: bash launch/test_optional.sh")

import tensorflow_datasets as tfds
from PIL import Image

from mmjax.data.sources import tfds as source_of_tfds
from mmjax.data.sources.fields import Keys
from mmjax.data.sources.specs import open_source
from mmjax.data.tfds_writer import Description, write_directory

TRAINING = str(Path(__file__).parents[2] / ".venv" / "bin" / "python")
BOX = tfds.features.BBox(0.1, 0.2, 0.3, 0.4)


def png(seed: int, size: tuple[int, int] = (20, 16)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def coco_captions(number: int) -> dict[str, Any]:
    return {
        "captions": [{"id": 2 * number + i, "text": f"caption {i} of {number}"} for i in range(5)],
        "image": png(number),
        "image/filename": f"{number}.png",
        "image/id": number,
        "objects": [{"area": 4, "bbox": BOX, "id": 1, "is_crowd": False, "label": 3}],
    }


def ref_coco(number: int) -> dict[str, Any]:
    annotation = {"area": 4, "bbox": BOX, "id": 1, "label": 3}
    said = [
        [{"raw": f"left {number}", "refexp_id": 0}, {"raw": f"the one of {number}", "refexp_id": 1}],
        [{"raw": f"right {number}", "refexp_id": 2}],
    ]
    objects = [{**annotation, "gt_box_index": 0, "mask": np.zeros((2, 2, 3), np.uint8), "refexp": one} for one in said]
    return {"coco_annotations": [annotation], "image": png(number), "image/id": number, "objects": objects}


def laion400m(number: int) -> dict[str, Any]:
    sizes = {"original_height": 16, "original_width": 20}
    about = {"license": "?", "nsfw": "UNLIKELY", "similarity": 0.3, "url": f"a/{number}"}
    return {"caption": f"text {number}", "image": png(number), **sizes, **about}


def webvid(number: int) -> dict[str, Any]:
    frames = [np.full((360, 640, 3), 40 * number + 10 * i, np.uint8) for i in range(3)]
    return {"caption": f"video {number}", "id": str(number), "url": "a", "video": np.stack(frames)}


def written(name: str, example: Any, folder: Path) -> Path:
    """Three examples, as the data set of that name has them, without its own preparation, which downloads."""
    with tfds.testing.mock_data(num_examples=1):
        features = tfds.builder(name).info.features
    write_directory(
        folder / name / "1.0.0", Description(name, "1.0.0", ""), features, {"train": map(example, range(3))}
    )
    return folder


@pytest.mark.parametrize(
    ("example", "keys", "captions"),
    [
        (coco_captions, {"text_key": "captions/text"}, [f"caption {i} of 2" for i in range(5)]),
        (ref_coco, {"text_key": "objects/refexp/raw"}, ["left 2", "the one of 2", "right 2"]),
        (laion400m, {"text_key": "caption", "licence_key": "license"}, ["text 2"]),
    ],
)
def test_a_data_set_is_read_by_its_name(
    example: Any, keys: Mapping[str, str], captions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(written(example.__name__, example, tmp_path)))
    spec = f"tfds:{example.__name__}"
    record = open_source(spec, "train", **keys)[2]
    assert (record.image, list(record.captions)) == (png(2), captions)
    assert open_source(f"{spec}:1.0.0", "train", **keys)[2].captions == record.captions
    assert without_tensorflow(spec, **keys) == captions


def without_tensorflow(spec: str, **keys: str) -> list[str]:
    """The captions of record 2, read in the environment of training, which has none."""
    program = (
        "import json; from mmjax.data.sources.specs import open_source;"
        f"print(json.dumps(open_source({spec!r}, 'train', **{keys!r})[2].captions))"
    )
    found = subprocess.run([TRAINING, "-c", program], check=True, capture_output=True, text=True)
    captions: list[str] = json.loads(found.stdout)
    return captions


def test_frames_of_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The feature needs TensorFlow to be read, which is said where it is missing."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(written("webvid", webvid, tmp_path)))
    record = open_source("tfds:webvid", "train", image_key="video", text_key="caption")[1]
    frames = [np.asarray(Image.open(io.BytesIO(frame))) for frame in record.frames]
    np.testing.assert_allclose(np.stack(frames), webvid(1)["video"], atol=2)  # TFDS keeps them as JPEG.
    with pytest.raises(subprocess.CalledProcessError) as failed:
        without_tensorflow("tfds:webvid", image_key="video", text_key="caption")
    assert "cannot read without tensorflow: pip install tensorflow" in failed.value.stderr


@pytest.mark.parametrize(("name", "text_key"), [("laion400m", "caption"), ("wit", "caption_reference_description")])
def test_mock_data_is_read(name: str, text_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What TFDS makes up of the features of its builders."""
    with tfds.testing.mock_data(num_examples=7):
        builder = tfds.builder(name)
        monkeypatch.setattr(source_of_tfds, "open_builder", lambda _: builder)
        has_image = "image" in builder.info.features
        source = source_of_tfds.TfdsSource(Path(name), "train", Keys("image" if has_image else "", text_key))
        assert len(source) == 7
        for number in range(7):
            assert source[number].captions[0].strip()
            assert (source[number].image is not None) == has_image
