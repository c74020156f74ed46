"""A mixture: every part in its share and each of its records once a pass, whatever it is mixed with."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mmjax.data.config import DataConfig
from mmjax.data.mixture import Mixture, Part, PartConfig, changes, continued, counts, described, tempered
from mmjax.data.opened import open_training
from mmjax.data.order import record_index
from mmjax.data.sources.joined import Joined
from mmjax.errors import UserError
from tests.data.tiny_sources import MemorySource
from tests.folders import write_image_folder

SEED = 5
PARTS = [Part("a", 40, 3.0), Part("b", 7, 1.0), Part("c", 100, 0.37)]
STARTS = {"a": 0, "b": 40, "c": 47}
MIXTURE = Mixture.of(PARTS)


def shown(mixture: Mixture, positions: range) -> dict[str, list[int]]:
    """The records of each part in the order in which they are read, by their own numbers."""
    found: dict[str, list[int]] = {part.name: [] for part in mixture.parts}
    starts = np.cumsum([0, *(part.num_records for part in mixture.parts)])
    for position in positions:
        index = mixture.record(SEED, position)
        place = int(np.searchsorted(starts, index, side="right")) - 1
        found[mixture.parts[place].name].append(index - int(starts[place]))
    return found


@pytest.mark.parametrize("shares", [[1], [1, 1], [5, 3, 2], [1, 999, 7, 1]])
def test_one_position_more_is_one_more_of_one_part(shares: list[int]) -> None:
    before = counts(0, shares)
    assert before == [0] * len(shares)
    for positions in range(1, 400):
        after = counts(positions, shares)
        assert sorted(np.subtract(after, before)) == [0] * (len(shares) - 1) + [1]
        before = after


def test_each_part_has_its_share_of_any_stretch() -> None:
    total = sum(part.weight for part in PARTS)
    for start, length in ((0, 10_000), (123_456, 1_000), (10**12 + 7, 5_000)):
        drawn = np.subtract(MIXTURE.draws(start + length), MIXTURE.draws(start))
        expected = [length * part.weight / total for part in PARTS]
        # Far inside what drawing at random would allow, four standard deviations of a binomial.
        assert (abs(drawn - expected) <= len(PARTS)).all()
        assert all(len(PARTS) < 4 * math.sqrt(length * p * (1 - p)) for p in (np.array(expected) / length))


def test_each_record_of_a_part_is_read_once_a_pass() -> None:
    for part in PARTS:
        read = shown(MIXTURE, range(2_000))[part.name]
        passes = [read[start : start + part.num_records] for start in range(0, len(read), part.num_records)]
        assert all(sorted(whole) == list(range(part.num_records)) for whole in passes[:-1])
        assert len(passes) > 1
        assert len(set(passes[-1])) == len(passes[-1])


def test_parts_of_one_length_have_orders_of_their_own() -> None:
    read = shown(Mixture.of([Part("a", 50, 1.0), Part("b", 50, 1.0)]), range(200))
    assert read["a"] != read["b"]
    assert read["a"][:50] != read["a"][50:]


def test_one_part_is_read_as_a_source_alone() -> None:
    alone = Mixture.of([Part("a", 21, 3.0)])
    expected = [record_index(SEED, position, 21) for position in range(70)]
    assert [alone.record(SEED, position) for position in range(70)] == expected


def test_far_positions_need_no_near_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten to the ninth of a billion records, in one call of the permutation."""
    calls = Counter[int]()

    def counted(seed: int, position: int, num_records: int, stream: int) -> int:
        calls[position] += 1
        return record_index(seed, position, num_records, stream)

    monkeypatch.setattr("mmjax.data.mixture.record_index", counted)
    mixture = Mixture.of([Part("a", 10**9, 2.0), Part("b", 3, 1.0)])
    assert 0 <= mixture.record(SEED, 10**9) < 10**9 + 3
    assert calls.total() == 1


def test_temperature_flattens_the_weights() -> None:
    assert tempered([8.0, 2.0], 1.0) == [8.0, 2.0]
    assert tempered([8.0, 2.0], 3.0) == pytest.approx([2.0, 2 ** (1 / 3)])
    with pytest.raises(UserError, match="data.temperature = 0 is not above 0: 1 leaves"):
        tempered([1.0], 0)


def test_records_beside_one_are_those_of_its_part() -> None:
    for index in (0, 39, 40, 46, 47, 146):
        assert index in MIXTURE.beside(index)
    assert [MIXTURE.beside(index) for index in (39, 40, 47)] == [range(40), range(40, 47), range(47, 147)]


def test_joined_sources_are_numbered_through() -> None:
    sources = [MemorySource(3), MemorySource(1), MemorySource(5)]
    joined = Joined(sources)
    records = [record for source in sources for record in (source[index] for index in range(len(source)))]
    assert [joined[index] for index in range(len(joined))] == records
    for index in (-1, 9):
        with pytest.raises(IndexError):
            joined[index]


def test_a_mixture_is_a_few_numbers() -> None:
    assert Mixture.from_dict(json.loads(json.dumps(MIXTURE.to_dict()))) == MIXTURE
    assert len(json.dumps(MIXTURE.to_dict())) < 500


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (PARTS, []),
        ([*PARTS, Part("d", 5, 1.0)], ["d is new"]),
        (PARTS[1:], ["a is gone"]),
        ([replace(PARTS[0], weight=2.0), *PARTS[1:]], ["the weight of a is 2, and was 3"]),
        ([replace(PARTS[0], num_records=41), *PARTS[1:]], ["a has 41 records, and had 40"]),
        (PARTS[::-1], ["the parts come in another order"]),
    ],
)
def test_changes_are_said(parts: list[Part], said: list[str]) -> None:
    assert changes(MIXTURE, parts) == said
    assert changes(continued(MIXTURE, parts, 100), parts) == []


def test_a_part_that_stays_goes_on_where_it_was() -> None:
    """A run whose mixture changes at position 100 has read, in the end, the same of a part as one that did not."""
    after = continued(MIXTURE, [Part("new", 9, 1.0), replace(PARTS[1], weight=2.0), PARTS[0]], 100)
    before, then = shown(MIXTURE, range(100)), shown(after, range(100, 1_000))
    whole = shown(MIXTURE, range(3_000))
    for name in ("a", "b"):
        read = before[name] + then[name]
        assert read == whole[name][: len(read)]
    assert sorted(then["new"][:9]) == list(range(9))


def test_a_part_that_grew_begins_its_next_pass() -> None:
    after = continued(MIXTURE, [replace(PARTS[0], num_records=60), *PARTS[1:]], 100)
    assert sorted(shown(after, range(100, 300))["a"][:60]) == list(range(60))
    assert after.draws(100) == [120, *MIXTURE.draws(100)[1:]]


def test_a_part_that_comes_back_has_an_order_that_is_new() -> None:
    without = continued(MIXTURE, PARTS[1:], 100)
    again = continued(without, PARTS, 200)
    assert sorted(part.stream for part in again.parts) == [1, 2, 3]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folders = [tmp_path_factory.mktemp(name) / "images" for name in ("small", "large")]
    small, large = (
        write_image_folder(folder, prefix, train=number)
        for folder, prefix, number in zip(folders, ("small", "large"), (4, 12), strict=True)
    )
    return DataConfig(mixture=(PartConfig(f"imagefolder:{small}"), PartConfig(f"imagefolder:{large}")))


def test_sources_are_weighed_by_their_records_where_nothing_is_said(config: DataConfig) -> None:
    data = open_training(config)
    assert [(part.num_records, part.weight) for part in data.parts] == [(4, 4), (12, 12)]
    assert [data.records[index].captions[0] for index in (3, 4)] == ["small 3", "large 0"]
    assert [part.weight for part in open_training(replace(config, temperature=2.0)).parts] == [2.0, math.sqrt(12)]


def test_a_part_is_read_with_keys_of_its_own(config: DataConfig) -> None:
    parts = (*config.mixture, PartConfig("emoji", "tune_concept", 0.5, locale="de"))
    data = open_training(replace(config, mixture=parts))
    assert (
        data.records[16].captions[0]
        == open_training(DataConfig(source="emoji", split="tune_concept", locale="de")).records[0].captions[0]
    )
    with pytest.raises(UserError, match="data.text_key 'tags' does not exist"):
        open_training(replace(config, mixture=(replace(config.mixture[0], text_key="tags"),)))


def test_wrong_parts_are_one_line(config: DataConfig) -> None:
    part = config.mixture[0]
    with pytest.raises(UserError, match=r"data.mixture has .* twice: give it once, with the sum of the weights"):
        open_training(replace(config, mixture=(part, replace(part, weight=2.0))))
    with pytest.raises(UserError, match="data.temperature = 0.001 leaves nothing but the largest part"):
        tempered([1e6, 2.0], 0.001)
    with pytest.raises(UserError, match="data.num_workers = -1 is below 0"):
        DataConfig(num_workers=-1)
    with pytest.raises(UserError, match="weight = inf of emoji is not above 0"):
        PartConfig("emoji", weight=math.inf)
    with pytest.raises(UserError, match="weight = 0 of emoji is not above 0, or endless: leave the part out"):
        PartConfig("emoji", weight=0)


def test_it_is_described_by_its_sources() -> None:
    assert described({"source": "emoji", "split": "train", "mixture": []}) == "emoji (split train)"
    parts = [{"source": "csv:a", "split": "train"}, {"source": "csv:b", "split": "val"}]
    assert described({"source": "emoji", "split": "x", "mixture": parts}) == "csv:a (split train), csv:b (split val)"
