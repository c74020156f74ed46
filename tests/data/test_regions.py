"""Regions of a TFDS directory become rows of a batch: cut, filled up and masked, streamed, and refused when wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmjax.data.config import DataConfig
from mmjax.data.examples import Examples
from mmjax.data.loader import eval_batches, train_batches
from mmjax.data.order import record_index
from mmjax.data.records import BadRecord, Record, Source
from mmjax.data.shapes import image_shapes, row_shapes
from mmjax.data.sources.specs import open_source
from mmjax.data.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.types import HostBatch
from tests.data import tiny_regions

DATA = DataConfig(
    batch_size=6, text_len=6, image_key="", answer_key="answer", regions=tiny_regions.CONFIG, num_threads=2
)
TOKENIZER = Tokenizer.load("emoji")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_regions.write(tmp_path_factory.mktemp("regions"))


def opened(folder: Path, split: str = "train", data: DataConfig = DATA):
    keys = {"image_key": data.image_key, "answer_key": data.answer_key}
    return open_source(f"tfds:{folder}", split, **keys, regions=data.regions)


def batches(folder: Path, data: DataConfig = DATA, **options) -> list[HostBatch]:
    return list(train_batches(data, opened(folder, data=data), TOKENIZER, seed=3, start_step=0, num_steps=2, **options))


def test_a_record_is_what_was_written(folder):
    record, written = opened(folder)[4], tiny_regions.example(4)
    assert (record.image, record.captions, record.class_name, record.answer) == (None, ("what is thing 4",), None, 1)
    np.testing.assert_array_equal(record.regions.features, written["features"].astype(np.float32))
    np.testing.assert_allclose(record.regions.boxes * [40, 20, 40, 20], written["boxes"], rtol=1e-6)
    for name, key in (("classes", "labels"), ("classes_confidence", "scores"), ("probabilities", "shares")):
        np.testing.assert_array_equal(record.regions.targets[name], written[key])


def test_a_batch_has_the_shapes_that_it_says_and_masks_what_is_not_there(folder):
    for step, batch in enumerate(batches(folder)):
        found = {name: (rows.shape[1:], rows.dtype) for name, rows in batch.items()}
        assert found == {name: (shape, dtype) for name, (shape, dtype) in row_shapes(DATA).items()}
        for row in range(DATA.batch_size):
            number = record_index(3, step * DATA.batch_size + row, 12)
            written, there = tiny_regions.example(number), min(3, 1 + number % 5)
            assert batch["region_mask"][row].tolist() == [place < there for place in range(3)]
            assert batch["answers"][row] == number % 3
            np.testing.assert_array_equal(batch["region_features"][row, :there], written["features"][:there])
            np.testing.assert_array_equal(batch["region_classes"][row, :there], written["labels"][:there])
            for name in batch:
                if name.startswith("region_"):
                    assert not batch[name][row, there:].any()


def test_evaluation_reads_what_the_model_sees_and_no_more(folder):
    (batch,) = eval_batches(DATA, opened(folder, "test"), TOKENIZER, batch_size=6)
    assert {name for name in batch if name.startswith("region_")} == set(image_shapes(DATA))
    assert "answers" not in batch
    assert batch["weights"].tolist() == [1, 1, 1, 1, 1, 0]
    assert not batch["region_mask"][5].any()


def test_processes_share_the_rows(folder):
    whole = batches(folder)
    halves = [batches(folder, process_index=process, process_count=2) for process in range(2)]
    for step, batch in enumerate(whole):
        for name, rows in batch.items():
            np.testing.assert_array_equal(rows, np.concatenate([half[step][name] for half in halves]))


def test_half_precision_travels_as_it_is_stored(folder):
    half = replace(DATA, regions=replace(DATA.regions, dtype="float16"))
    for batch, other in zip(batches(folder), batches(folder, half), strict=True):
        assert other["region_features"].dtype == np.float16
        np.testing.assert_array_equal(batch["region_features"], other["region_features"])


class CountingSource:
    """Counts what is read of another one."""

    def __init__(self, source: Source):
        self._source, self.reads = source, 0

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        self.reads += 1
        return self._source[index]


def test_no_more_than_the_cache_is_kept_in_memory(folder):
    """Of two records of five regions each, all bytes counted, there is room for none, and for one."""
    record = opened(folder)[4].regions
    one = sum(array.nbytes for array in (record.features, record.boxes, *record.targets.values()))
    for cache_bytes, num_reads in ((one - 1, 4), (one, 3)):
        source = CountingSource(opened(folder))
        examples = Examples(replace(DATA, cache_bytes=cache_bytes), source, TOKENIZER)
        examples.eval_batch([4, 9])
        examples.eval_batch([4, 9])
        assert source.reads == num_reads


def test_texts_alone_have_no_image(folder):
    data = replace(DATA, regions=None)
    batch = next(iter(batches(folder, data)))
    assert set(batch) == {"text_ids", "text_mask", "ids", "weights", "answers"} == set(row_shapes(data))
    assert batch["weights"].all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.zeros((0, 6), np.float16), "boxes": np.zeros((0, 4), np.float32)}, "has no regions"),
        ({"boxes": np.zeros((2, 4), np.float32)}, r"boxes have shape \(2, 4\), not \(3, 4\)"),
        ({"features": np.full((3, 6), np.nan, np.float16)}, "features are not all finite"),
        ({"labels": np.zeros(2, np.int64)}, r"classes have shape \(2,\), not \(3,\)"),
        ({"boxes": np.full((3, 4), 90, np.float32)}, "reach to 4.5 times the image's size: set data.regions.box_unit"),
        ({"image_width": 0.0}, "0 x 20 pixels"),
    ],
)
def test_a_record_that_is_not_as_the_config_says_is_bad(tmp_path, changes, message):
    source = opened(tiny_regions.write(tmp_path, 3, 1, **changes))
    with pytest.raises(BadRecord, match=message):
        source[2]


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        ("tfds:{folder}", {"features_key": "feature"}, "key 'feature' does not exist: did you mean features"),
        ("tfds:{folder}", {"width_key": "width"}, "key 'width' does not exist: did you mean image_width"),
        ("emoji", {}, "data.regions is set, but data.source 'emoji' has none: give tfds:DIR"),
    ],
)
def test_data_without_such_regions_is_refused(folder, spec, changes, message):
    with pytest.raises(UserError, match=message):
        open_source(spec.format(folder=folder), "train", image_key="", regions=replace(DATA.regions, **changes))


def test_a_distribution_says_of_how_many_classes():
    with pytest.raises(UserError, match="distributions have at least 1"):
        replace(DATA.regions.targets[2], num_classes=0)
