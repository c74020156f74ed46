"""Batches: a pure function of (seed, step), the same over processes and threads; bad records keep their rows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmjax.data import loader
from mmjax.data.augment import AugmentConfig
from mmjax.data.bad_records import BadRecords
from mmjax.data.captions import CaptionConfig
from mmjax.data.config import DataConfig
from mmjax.data.costs import STAGES, Costs
from mmjax.data.loader import eval_batches, train_batches
from mmjax.data.mixture import Mixture, Part
from mmjax.data.order import record_index
from mmjax.data.preprocess import PreprocessConfig, preprocess
from mmjax.data.records import BadRecord, Record, caption_id
from mmjax.data.sources.specs import open_source
from mmjax.data.tokenizer import Tokenizer
from mmjax.data.words import hashes
from mmjax.errors import UserError
from mmjax.types import HostBatch
from tests.data.tiny_sources import MemorySource

CONFIG = DataConfig(
    batch_size=8,
    text_len=6,
    preprocess=PreprocessConfig(image_size=8),
    augment=AugmentConfig(rotate_degrees=20.0, hue_degrees=20.0, erase_rate=0.5),
    captions=CaptionConfig(style="tags"),
    num_threads=2,
)
TOKENIZER = Tokenizer.load("emoji")


def train(
    config: DataConfig = CONFIG, source=None, start_step: int = 0, num_steps: int = 6, **options
) -> list[HostBatch]:
    source = source or MemorySource(20)
    return list(train_batches(config, source, TOKENIZER, seed=7, start_step=start_step, num_steps=num_steps, **options))


def assert_equal(batches: list[HostBatch], others: list[HostBatch]) -> None:
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_shapes_and_types() -> None:
    batch = train(num_steps=1)[0]
    assert {name: (rows.shape, str(rows.dtype)) for name, rows in batch.items()} == {
        "image": ((8, 8, 8, 3), "uint8"),
        "text_ids": ((8, 6), "int32"),
        "text_mask": ((8, 6), "bool"),
        "ids": ((8,), "int32"),
        "weights": ((8,), "float32"),
    }


@pytest.mark.parametrize("change", [{"num_threads": 0}, {"num_threads": 5, "prefetch": 7}, {"cache_bytes": 0}])
def test_threads_and_cache_change_nothing(change: dict) -> None:
    assert_equal(train(), train(replace(CONFIG, **change)))


@pytest.mark.parametrize("mixture", [None, Mixture.of([Part("a", 13, 1.0), Part("b", 7, 4.0)])], ids=["one", "mixed"])
@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_resumed_equals_uninterrupted_on_any_number_of_processes(process_count: int, mixture: Mixture | None) -> None:
    whole = train(mixture=mixture)[3:]
    parts = [
        train(start_step=3, process_index=index, process_count=process_count, mixture=mixture)
        for index in range(process_count)
    ]
    joined = [{name: np.concatenate([part[step][name] for part in parts]) for name in whole[0]} for step in range(3)]
    assert_equal(whole, joined)


def test_workers_change_nothing(tmp_path: Path) -> None:
    """Two other processes make the same batches, and what they find bad is listed here."""
    found = []
    for num_workers in (0, 2):
        path = tmp_path / f"{num_workers}.jsonl"
        log, costs = BadRecords(20, max_share=0.2, path=path), Costs()
        source = MemorySource(20, missing=[4], broken=[11])
        batches = train(replace(CONFIG, num_workers=num_workers), source, bad_records=log, costs=costs)
        assert costs.rows == 48
        assert set(costs.secs) == set(STAGES)
        found.append((batches, path.read_text()))
    assert_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert found[0][1].count("\n") == 2


def test_an_error_in_a_worker_is_not_hidden() -> None:
    class Wrong(MemorySource):
        def __getitem__(self, index: int) -> Record:
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        train(replace(CONFIG, num_workers=1), Wrong(20))


def test_a_process_reads_its_own_rows_only() -> None:
    read = set()

    class Watched(MemorySource):
        def __getitem__(self, index: int) -> Record:
            read.add(index)
            return super().__getitem__(index)

    train(source=Watched(1000), num_steps=2, process_index=1, process_count=2)
    assert read == {record_index(7, step * 8 + row, 1000) for step in range(2) for row in range(4, 8)}


def test_an_epoch_shows_each_record_once_and_augments_it_anew() -> None:
    batches = train(num_steps=5)
    ids = np.concatenate([batch["ids"] for batch in batches]).reshape(2, 20)
    for epoch in ids:
        assert sorted(epoch) == sorted(caption_id(f"thing {index}") for index in range(20))
    images = np.concatenate([batch["image"] for batch in batches]).reshape(2, 20, -1)
    again = [images[1][list(ids[1]).index(one)] for one in ids[0]]
    assert not any(np.array_equal(first, second) for first, second in zip(images[0], again, strict=True))


def test_words_of_all_captions_come_along() -> None:
    source = MemorySource(20, missing=[record_index(7, 0, 20)])
    config = replace(CONFIG, num_words=5, max_bad_share=1.0)
    (batch,) = train(config, source, num_steps=1)
    assert batch["words"].shape == (8, 5)
    assert not batch["words"][0].any()
    np.testing.assert_array_equal(batch["words"][1], hashes(source[record_index(7, 1, 20)].captions, 5))


def test_word_starts_come_along() -> None:
    (batch,) = train(replace(CONFIG, word_starts=True), num_steps=1)
    np.testing.assert_array_equal(batch["word_starts"], ~TOKENIZER.continues[batch["text_ids"]])
    assert batch["word_starts"][:, 0].all()


def test_rare_words_of_the_source_are_left_out() -> None:
    captions = CaptionConfig(style="main", rare_drop_rate=1.0)
    (batch,) = train(replace(CONFIG, captions=captions), num_steps=1)
    expected, _ = TOKENIZER(["thing"] * 8, 6)  # Its number is what only one record has.
    np.testing.assert_array_equal(batch["text_ids"], expected)


def test_photos_are_cropped_from_the_original() -> None:
    config = replace(CONFIG, augment=AugmentConfig(crop_area=(0.2, 0.5)))
    assert_equal(train(config), train(replace(config, cache_bytes=0)))
    assert train(config, num_steps=1)[0]["image"].shape == (8, 8, 8, 3)


def test_bad_records_keep_their_rows(tmp_path: Path) -> None:
    log = BadRecords(20, max_share=0.2, path=tmp_path / "bad_records.jsonl")
    good = train()
    batches = train(source=MemorySource(20, missing=[4], broken=[11]), bad_records=log)
    bad_ids = [caption_id(f"thing {index}") for index in (4, 11)]
    for batch, reference in zip(batches, good, strict=True):
        bad = np.isin(reference["ids"], bad_ids)
        np.testing.assert_array_equal(batch["weights"], np.where(bad, 0.0, 1.0))
        for name in ("image", "text_ids", "ids"):
            np.testing.assert_array_equal(batch[name][~bad], reference[name][~bad])
        assert not batch["image"][bad].any()
        assert (batch["text_mask"][bad].sum(axis=1) == 1).all()
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert sorted(line["index"] for line in lines) == [4, 11]
    assert {line["index"]: line["reason"] for line in lines}[4] == "no such file"
    assert log.count == 2


@pytest.mark.parametrize("num_threads", [0, 2])
def test_too_many_bad_records_stop_the_caller(num_threads: int) -> None:
    source = MemorySource(20, missing=[0, 1, 2])
    with pytest.raises(
        UserError, match=r"of the \d+ records seen are bad, more than data.max_bad_share=0.01 .*no such file"
    ):
        train(replace(CONFIG, num_threads=num_threads), source, num_steps=50)


def test_a_bug_in_a_source_is_not_hidden() -> None:
    class Buggy(MemorySource):
        def __getitem__(self, index: int) -> Record:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(source=Buggy(20))


def test_evaluation_is_in_order_and_padded_with_weight_0() -> None:
    source = MemorySource(10)
    batches = list(eval_batches(CONFIG, source, TOKENIZER, batch_size=4))
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert joined["weights"].tolist() == [1.0] * 10 + [0.0] * 2
    assert joined["ids"].tolist() == [caption_id(f"thing {index}") for index in range(10)] + [-1, -1]
    np.testing.assert_array_equal(joined["image"][3], preprocess(source.images[3], CONFIG.preprocess))
    parts = [
        list(eval_batches(CONFIG, source, TOKENIZER, batch_size=4, process_index=index, process_count=2))
        for index in range(2)
    ]
    assert_equal(batches, [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)])


def test_an_image_folder_with_bad_lines_trains_through(image_folder: Path) -> None:
    source = open_source(f"imagefolder:{image_folder}", "train")
    config = replace(CONFIG, batch_size=12, max_bad_share=0.5)
    batch = train(config, source, num_steps=1)[0]
    assert batch["weights"].sum() == 8
    with pytest.raises(BadRecord):
        source[3]


def test_a_second_caption_is_of_the_record_or_of_another() -> None:
    """What follows is the record's next caption, or its main one where it was drawn as another record's by chance."""
    config = replace(CONFIG, captions=CaptionConfig(pair=True, other_rate=0.25), text_len=12)
    tokenizer = Tokenizer.load("emoji+mask")
    source = MemorySource(3)
    batches = list(train_batches(config, source, tokenizer, seed=7, start_step=0, num_steps=6))
    own_mains = 0
    for step, batch in enumerate(batches):
        for row in range(8):
            number = record_index(7, step * 8 + row, 3)
            ids, types = batch["text_ids"][row], batch["token_types"][row]
            assert tokenizer.decode([i for i in ids[types == 0] if i not in tokenizer.special_ids]) == f"thing {number}"
            found = tokenizer.decode([i for i in ids[types == 1] if i not in tokenizer.special_ids])
            assert batch["follows"][row] == (found in ("red", f"thing {number}"))
            own_mains += found == f"thing {number}"
    follows = np.concatenate([batch["follows"] for batch in batches])
    # Of 48 draws 36 are its own, and a third of the others falls on it: 40 are expected, with a deviation of 2.6.
    assert 32 <= follows.sum() < 48
    assert own_mains > 0
    again = list(train_batches(config, source, tokenizer, seed=7, start_step=3, num_steps=6))
    assert_equal(batches[3:], again)


def test_a_second_caption_is_of_the_same_part() -> None:
    """Else the part alone would tell whether it follows."""
    config = replace(CONFIG, captions=CaptionConfig(pair=True, other_rate=1.0), text_len=12)
    tokenizer = Tokenizer.load("emoji+mask")
    mixture = Mixture.of([Part("a", 10, 1.0), Part("b", 10, 1.0)])
    options = {"seed": 7, "start_step": 0, "num_steps": 6, "mixture": mixture}
    seconds = [set(), set()]
    for batch in train_batches(config, MemorySource(20), tokenizer, **options):
        for ids, types in zip(batch["text_ids"], batch["token_types"], strict=True):
            first, second = (
                int(tokenizer.decode([i for i in ids[types == kind] if i not in tokenizer.special_ids]).split()[1])
                for kind in (0, 1)
            )
            assert first // 10 == second // 10
            seconds[first // 10].add(second)
    assert all(len(found) > 5 for found in seconds)


def test_another_record_that_is_bad_is_not_followed() -> None:
    """Its own turn is where it is reported; here the record's own caption follows."""
    config = replace(CONFIG, captions=CaptionConfig(pair=True, other_rate=1.0), text_len=12)
    batches = train(config, MemorySource(20, missing=range(1, 20)), num_steps=3, bad_records=BadRecords(20, 1.0))
    good = np.concatenate([batch["weights"] > 0 for batch in batches])
    follows = np.concatenate([batch["follows"] for batch in batches])
    assert follows[good].all()
    assert not follows[~good].any()


def test_parts_of_a_step_are_joined_row_by_row() -> None:
    """Whatever they are views of: arrays of the step, of two kinds of rows at once, or of shared memory."""
    whole, pair = np.arange(12).reshape(4, 3).copy(), np.zeros((2, 2, 3), np.int32)
    assert loader._joined_rows([whole[:2], whole[2:]]) is whole
    assert loader._joined_rows([pair[1]]).shape == (2, 3)
    memory = np.frombuffer(bytearray(4), np.uint8)
    assert type(loader._joined_rows([memory])) is np.ndarray


def test_several_tasks_of_a_step_come_from_several_workers() -> None:
    config = replace(CONFIG, batch_size=192, text_len=12, captions=CaptionConfig(pair=True))
    assert_equal(train(config, num_steps=2), train(replace(config, num_workers=2), num_steps=2))


def test_arrays_of_a_step_are_let_go_once_all_its_tasks_have_their_rows() -> None:
    made = []
    arrays = loader.StepArrays(lambda rows: made.append(rows) or {"image": np.zeros((rows, 2))}, 12, 4)
    parts = {
        (step, part): arrays.part(step, slice(4 * part, 4 * part + 4))["image"] for step in (0, 1) for part in range(3)
    }
    for (step, part), rows in parts.items():
        assert rows.shape == (4, 2)
        rows[...] = 10 * step + part
    assert parts[0, 0].base is parts[0, 2].base
    assert parts[0, 0].base is not parts[1, 0].base
    assert parts[1, 0].base[:, 0].tolist() == [10] * 4 + [11] * 4 + [12] * 4
    assert made == [12, 12]
    assert not arrays._open
