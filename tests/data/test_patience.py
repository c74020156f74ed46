"""A source that may be away: it is asked again, then skipped, and what a run has skipped it skips again."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmjax.data import patience
from mmjax.data.bad_records import BadRecords
from mmjax.data.config import DataConfig
from mmjax.data.loader import eval_batches, train_batches
from mmjax.data.order import record_index
from mmjax.data.patience import PatientSource
from mmjax.data.preprocess import PreprocessConfig
from mmjax.data.records import BadRecord, Record, Unreachable
from mmjax.data.sources.fields import Keys
from mmjax.data.sources.imagefolder import image_folder
from mmjax.data.sources.tfds import TfdsSource
from mmjax.data.tokenizer import Tokenizer
from mmjax.data.words import rare_words
from mmjax.errors import UserError
from mmjax.types import HostBatch
from tests.data.tiny_sources import MemorySource
from tests.folders import write_image_folder

CONFIG = DataConfig(
    batch_size=4,
    text_len=6,
    preprocess=PreprocessConfig(image_size=8),
    num_threads=2,
    cache_bytes=0,
    max_bad_share=1.0,
    retry_secs=0.05,
)


class FlakySource(MemorySource):
    """Records that cannot be reached the first `times` that they are asked for."""

    def __init__(self, num_records: int, times: dict[int, int]):
        super().__init__(num_records)
        self.times, self.asked = times, Counter[int]()

    def __getitem__(self, index: int) -> Record:
        self.asked[index] += 1
        if self.asked[index] <= self.times.get(index, 0):
            raise Unreachable("connection reset")
        return super().__getitem__(index)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_SECS", 0.001)
    monkeypatch.setattr(patience, "LONGEST_WAIT_SECS", 0.01)


def test_what_comes_back_was_never_away() -> None:
    source = PatientSource(FlakySource(4, {2: 3}), retry_secs=10)
    assert source[2].captions == ("thing 2", "red", "round")
    assert len(source) == 4


def test_what_stays_away_is_waited_for_once() -> None:
    flaky = FlakySource(8, {index: 10**9 for index in range(4)})
    source = PatientSource(flaky, retry_secs=0.05)
    for index in range(4):
        with pytest.raises(Unreachable, match="connection reset"):
            source[index]
    assert flaky.asked[0] > 1
    assert [flaky.asked[index] for index in (1, 2, 3)] == [1, 1, 1]
    assert source[5].name == "memory 5"
    with pytest.raises(Unreachable):
        source[1]
    assert flaky.asked[1] > 2


def test_a_bad_record_is_not_tried_again() -> None:
    flaky = FlakySource(4, {})
    flaky.missing = {1}
    with pytest.raises(BadRecord):
        PatientSource(flaky, retry_secs=10)[1]
    assert flaky.asked[1] == 1


def test_captions_that_cannot_be_reached_are_no_rare_words() -> None:
    with pytest.raises(UserError, match="record 2 cannot be reached .connection reset.: see that the data is there"):
        rare_words(FlakySource(4, {2: 1}))


def test_an_evaluation_asks_again_for_what_was_away(tmp_path: Path) -> None:
    listed = BadRecords(8, 1.0, tmp_path / "bad_records.jsonl")
    source = FlakySource(8, {5: 10**9})
    for away in (1, 0):
        passed = list(eval_batches(CONFIG, source, Tokenizer.load("emoji"), batch_size=8, bad_records=listed))
        assert passed[0]["weights"].tolist() == [float(index != 5 or not away) for index in range(8)]
        source.times = {}
    assert not listed.skipped


def batches(source: MemorySource, bad_records: BadRecords, start_step: int = 0) -> list[HostBatch]:
    options = {"seed": 3, "start_step": start_step, "num_steps": 6, "bad_records": bad_records}
    return list(train_batches(CONFIG, source, Tokenizer.load("emoji"), **options))


def test_a_skipped_row_keeps_its_place_and_stays_skipped(tmp_path: Path) -> None:
    """Record 5 is away in the first epoch, of two steps, and there afterwards; the run goes on from step 1."""
    listed = BadRecords(8, 1.0, tmp_path / "bad_records.jsonl")
    interrupted = batches(FlakySource(8, {5: 10**9}), listed)[:2]
    (position,) = (position for position in range(8) if record_index(3, position, 8) == 5)
    assert min(listed.skipped) == position
    weights = np.concatenate([batch["weights"] for batch in interrupted])
    assert weights[position] == 0
    assert weights.sum() == 7
    first_line = json.loads((tmp_path / "bad_records.jsonl").read_text().splitlines()[0])
    assert first_line["name"].startswith("record 5 at position ")
    assert first_line["reason"] == "connection reset"

    step = position // CONFIG.batch_size
    resumed = batches(MemorySource(8), BadRecords(8, 1.0, skipped=[position]), start_step=step)
    for name, rows in interrupted[step].items():
        np.testing.assert_array_equal(resumed[0][name], rows)
    assert all(batch["weights"].all() for batch in resumed[1:])


def test_a_folder_that_is_gone_may_come_back_and_a_file_may_not(tmp_path: Path) -> None:
    source = image_folder(write_image_folder(tmp_path / "images"), "train")
    (tmp_path / "images" / "train" / "3.png").unlink()
    with pytest.raises(BadRecord, match="cannot be read"):
        source[3]
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(Unreachable, match="cannot be read"):
        source[4]


def test_a_shard_that_is_gone_may_come_back_and_a_short_one_is_bad(tfds_folder: Path) -> None:
    shard = next(tfds_folder.rglob("*train*"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadRecord, match="its shard does not hold it: the file is cut off or damaged"):
        TfdsSource(tfds_folder, "train", Keys(text="label"))[0]
    shard.unlink()
    with pytest.raises(Unreachable, match="its shard cannot be read: .*No such file"):
        TfdsSource(tfds_folder, "train", Keys(text="label"))[0]


def test_skipping_counts_towards_the_limit() -> None:
    source = FlakySource(200, dict.fromkeys(range(200), 10**9))
    limited = replace(CONFIG, max_bad_share=0.5)
    with pytest.raises(Exception, match="records seen are bad, more than data.max_bad_share=0.5"):
        list(train_batches(limited, source, Tokenizer.load("emoji"), seed=0, start_step=0, num_steps=60))
