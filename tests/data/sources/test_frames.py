"""Videos: frames of every kind of source come in their order, a training example shows one, and the middle one is the
record's image."""

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mmjax.data.augment import AugmentConfig
from mmjax.data.config import DataConfig
from mmjax.data.loader import eval_batches, train_batches
from mmjax.data.preprocess import PreprocessConfig
from mmjax.data.records import BadRecord, Record
from mmjax.data.sources.specs import open_source
from mmjax.data.tfds_writer import Description, write_directory
from mmjax.data.tokenizer import Tokenizer
from mmjax.errors import UserError
from tests.data.sources.tiny_tars import write_tar

NUM_FRAMES = (12, 5, 0)
"""Of each video; the last one has none."""
CONFIG = DataConfig(batch_size=8, text_len=4, preprocess=PreprocessConfig(image_size=4), num_threads=1)


def frame(video: int, number: int) -> bytes:
    """A PNG of one colour, which says what it is."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), (video, number, 7), np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def rows() -> list[dict]:
    return [
        {"video": [frame(video, number) for number in range(many)], "text": f"video {video}"}
        for video, many in enumerate(NUM_FRAMES)
    ]


def tars(folder: Path) -> tuple[str, str]:
    members = []
    for video, row in enumerate(rows()):
        # Not in the order of their numbers, and with names of different lengths.
        frames = sorted((f"{video}.frame{number}.png", content) for number, content in enumerate(row["video"]))
        members += [*frames, (f"{video}.txt", row["text"].encode())]
    write_tar(folder / "0.tar", members)
    return f"wds:{folder}/0.tar", "frame*.png"


def table(folder: Path) -> tuple[str, str]:
    lines = []
    for video, row in enumerate(rows()):
        names = [f"{video}-{number}.png" for number in range(len(row["video"]))]
        for name, content in zip(names, row["video"], strict=True):
            (folder / name).write_bytes(content)
        lines.append(json.dumps({**row, "video": names}))
    (folder / "videos.jsonl").write_text("\n".join(lines))
    return f"jsonl:{folder}/videos.jsonl", "video"


def saved(folder: Path) -> tuple[str, str]:
    kinds = datasets.Features({"video": datasets.List(datasets.Image()), "text": datasets.Value("string")})
    datasets.Dataset.from_list(rows(), features=kinds).save_to_disk(str(folder / "saved"))
    return f"hfds:{folder}/saved", "video"


def directory(folder: Path) -> tuple[str, str]:
    image = tfds.features.Image(shape=(None, None, 3))
    kinds = tfds.features.FeaturesDict({"video": tfds.features.Sequence(image), "text": tfds.features.Text()})
    write_directory(folder / "1.0.0", Description("videos", "1.0.0", "tiny"), kinds, {"train": rows()})
    return f"tfds:{folder}/1.0.0", "video"


@pytest.mark.parametrize("write", [tars, table, saved, directory])
def test_frames_come_in_their_order(write, tmp_path: Path) -> None:
    spec, key = write(tmp_path)
    source = open_source(spec, "train", image_key=key)
    for video, many in enumerate(NUM_FRAMES[:2]):
        assert source[video].frames == tuple(frame(video, number) for number in range(many))
        assert source[video].image == frame(video, many // 2)
        assert source[video].captions == (f"video {video}",)
    assert pickle.loads(pickle.dumps(source))[0].frames == source[0].frames, "workers take a copy"
    with pytest.raises(BadRecord, match="has no frame"):
        source[2]


def test_lists_of_images_are_not_written_anew(tmp_path: Path) -> None:
    spec, key = saved(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert open_source(spec, "train", image_key=key)[0].frames
    assert sorted(tmp_path.rglob("*")) == before


def test_a_wildcard_that_no_member_fits_is_one_line(tmp_path: Path) -> None:
    spec, _ = tars(tmp_path)
    with pytest.raises(UserError, match=r"data.image_key 'shot\*.png' does not exist"):
        open_source(spec, "train", image_key="shot*.png")


class Videos:
    """Sixteen of nine frames."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Record:
        frames = tuple(frame(index, number) for number in range(9))
        return Record(frames[4], (f"video {index}",), None, f"video {index}", frames=frames)


def shown(batches: list) -> list[tuple[int, int]]:
    """The videos and the frames in the rows of batches."""
    return [(int(row[0, 0, 0]), int(row[0, 0, 1])) for batch in batches for row in batch["image"]]


@pytest.mark.parametrize("augment", [AugmentConfig(), AugmentConfig(crop_area=(0.5, 1.0))], ids=["whole", "cut"])
def test_a_training_example_shows_a_frame_that_its_position_draws(augment: AugmentConfig) -> None:
    config, tokenizer = replace(CONFIG, augment=augment), Tokenizer.load("emoji")
    batches = list(train_batches(config, Videos(), tokenizer, seed=3, start_step=0, num_steps=20))
    seen = shown(batches)
    for epoch in range(10):
        assert sorted(video for video, _ in seen[epoch * 16 : (epoch + 1) * 16]) == list(range(16))
    counts = np.bincount([number for _, number in seen], minlength=9)
    # 160 draws of 9: 17.8 of each, give or take 4.
    assert counts.sum() == 160
    assert counts.min() >= 5
    again = list(train_batches(replace(config, num_threads=3), Videos(), tokenizer, seed=3, start_step=5, num_steps=20))
    assert shown(again) == seen[5 * 8 :]


def test_an_evaluation_shows_the_middle_one() -> None:
    batches = list(eval_batches(CONFIG, Videos(), Tokenizer.load("emoji"), batch_size=8))
    assert shown(batches) == [(video, 4) for video in range(16)]
