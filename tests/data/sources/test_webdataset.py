"""Tars are read by number: right pairs or a reason, whatever the tar looks like, from an index that is made once."""

import gzip
import itertools
import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmjax.data import storage
from mmjax.data.records import BadRecord, Record, Source
from mmjax.data.sources import tar_index
from mmjax.data.sources.slices import part_of
from mmjax.data.sources.specs import list_splits, open_source
from mmjax.errors import UserError
from tests.data.sources.tiny_tars import sample, write_shards, write_tar
from tests.data.tiny_sources import png


def number_of(record: Record) -> int:
    """The number that record's caption says, whose image it must have."""
    number = int(record.captions[0].removeprefix("thing "))
    assert record.image == png(number)
    return number


def outcomes(source: Source) -> Iterator[int | str]:
    """Of each record its number, or why it is bad."""
    for index in range(len(source)):
        try:
            yield number_of(source[index])
        except BadRecord as error:
            yield str(error)


def test_samples_come_in_the_order_of_the_shards(tmp_path: Path) -> None:
    source = open_source(f"wds:{write_shards(tmp_path)}", "train")
    assert list(outcomes(source)) == list(range(12))
    assert source[5].name == f"{tmp_path}/00001.tar 000000005"
    assert list(outcomes(open_source(f"wds:{tmp_path}/*.tar", "train"))) == list(range(12))
    for index in (-1, 12):
        with pytest.raises(IndexError):
            source[index]


def test_captions_come_from_the_text_or_from_a_field(tmp_path: Path) -> None:
    fields = {"words": {"en": ["one", "two"], "none": []}, "size": 3}
    write_tar(tmp_path / "a.tar", sample("a", 0, **fields))
    spec = f"wds:{tmp_path}/a.tar"
    expected = {
        "text": ("thing 0",),
        "txt": ("thing 0",),
        "json/caption": ("thing 0",),
        "json/words/en": ("one", "two"),
    }
    assert {key: open_source(spec, "train", text_key=key)[0].captions for key in expected} == expected
    for key, reason in {
        "json/title": "no 'title'",
        "json/words/none": r"its caption is \[\]",
        "json/size": "is 3",
    }.items():
        with pytest.raises(BadRecord, match=reason):
            open_source(spec, "train", text_key=key)[0]


def test_members_are_found_by_their_names(tmp_path: Path) -> None:
    members = [
        ("./dir.with.dots/a.left.PNG", png(1)),
        ("./dir.with.dots/a.right.jpg", png(2)),
        ("./dir.with.dots/a.txt", b" thing 1\n"),
        ("README", b"of no sample"),
        (".hidden.txt", b"of no sample"),
        ("k" * 200 + ".webp", png(3)),
        ("k" * 200 + ".txt", b"thing 3"),
    ]
    write_tar(tmp_path / "a.tar", members)
    source = open_source(f"wds:{tmp_path}/a.tar", "train", image_key="left.png")
    assert len(source) == 2
    assert number_of(source[0]) == 1
    assert number_of(open_source(f"wds:{tmp_path}/a.tar", "train")[1]) == 3
    assert open_source(f"wds:{tmp_path}/a.tar", "train", image_key="")[0].image is None


def test_members_far_apart_are_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [("a.jpg", png(4)), ("a.npy", bytes(10**6)), ("a.txt", b"thing 4"), *sample("b", 5)]
    write_tar(tmp_path / "a.tar", members)
    source, read, asked = open_source(f"wds:{tmp_path}/a.tar", "train"), storage.read, []
    monkeypatch.setattr(storage, "read", lambda *place: asked.append(place[2]) or read(*place))
    assert list(outcomes(source)) == [4, 5]
    assert asked[:2] == [len(png(4)), 7]
    assert len(asked) == 3


def test_parts_are_asked_for_as_of_tfds(tmp_path: Path) -> None:
    spec = f"wds:{write_shards(tmp_path)}"
    assert list_splits(spec) == ("train",)
    assert list(outcomes(open_source(spec, "train[:25%]"))) == [0, 1, 2]
    assert list(outcomes(open_source(spec, "train[10:]+train[:1]"))) == [10, 11, 0]
    for split, message in {
        "test": "split 'test' does not exist: choose one of train",
        "test[:3]": "is not a part of 'train'",
        "train[3:3]": "is empty: choose a larger part of the 12 records",
    }.items():
        with pytest.raises(UserError, match=message):
            open_source(spec, split)


def test_the_index_is_made_once_and_lies_beside_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = write_shards(tmp_path)
    made = tar_index.tar_index(storage.find(pattern))
    monkeypatch.setattr(tar_index, "build", lambda shards: pytest.fail("made again"))
    read = tar_index.tar_index(storage.find(pattern))
    assert [made[number] for number in range(12)] == [read[number] for number in range(12)]
    assert len(list((tmp_path / ".mmjax").iterdir())) == 1


def test_where_nothing_may_be_written_it_lies_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pattern = write_shards(tmp_path / "shards")
    # A file where the folder would be stands for a folder that may not be written, which root never meets.
    (tmp_path / "shards" / ".mmjax").touch()
    assert list(outcomes(open_source(f"wds:{pattern}", "train"))) == list(range(12))
    monkeypatch.setattr(tar_index, "build", lambda shards: pytest.fail("made again"))
    assert len(open_source(f"wds:{pattern}", "train")) == 12
    assert len(list((tmp_path / "cache" / "mmjax").iterdir())) == 1


def test_a_shard_that_has_changed_is_refused(tmp_path: Path) -> None:
    spec = f"wds:{write_shards(tmp_path)}"
    open_source(spec, "train")
    write_tar(tmp_path / "00001.tar", sample("new", 1))
    with pytest.raises(UserError, match=r"00001.tar was written anew since its index was made .* delete"):
        open_source(spec, "train")


def test_a_shard_of_the_same_size_that_has_changed_is_refused_too(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", sample("a", 0))
    assert number_of(open_source(f"wds:{tmp_path}/a.tar", "train")[0]) == 0
    before = (tmp_path / "a.tar").stat()
    write_tar(tmp_path / "a.tar", reversed(sample("a", 0)))
    os.utime(tmp_path / "a.tar", ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert (tmp_path / "a.tar").stat().st_size == before.st_size
    with pytest.raises(UserError, match="was written anew"):
        open_source(f"wds:{tmp_path}/a.tar", "train")


def test_links_are_files(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    (tmp_path / "links").mkdir()
    for path in (tmp_path / "shards").glob("*.tar"):
        (tmp_path / "links" / path.name).symlink_to(path)
    assert list(outcomes(open_source(f"wds:{tmp_path}/links/*.tar", "train"))) == list(range(12))
    (tmp_path / "shards" / "00001.tar").unlink()
    with pytest.raises(UserError, match=r"00001.tar is in its folder, and cannot be read"):
        open_source(f"wds:{tmp_path}/links/*.tar", "train")


def test_a_path_that_is_there_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a[1]{0..2}").mkdir()
    write_tar(tmp_path / "a[1]{0..2}" / "b?::.tar", sample("a", 3))
    monkeypatch.chdir(tmp_path)
    assert list(outcomes(open_source("wds:a[1]{0..2}/b?::.tar", "train"))) == [3]


def test_zeros_in_place_of_samples_are_not_the_end(tmp_path: Path) -> None:
    """As a disk leaves them that lost what was written; and behind one tar there is no other."""
    members = [member for number in range(60) for member in sample(str(number), number)]
    whole = write_tar(tmp_path / "whole.tar", members).read_bytes()
    at = whole.index(b"2.jpg")
    (tmp_path / "lost.tar").write_bytes(whole[:at] + bytes(len(whole) - at))
    (tmp_path / "two.tar").write_bytes(whole + whole)
    for name, num_right in {"lost.tar": 2, "two.tar": 60}.items():
        found = list(outcomes(open_source(f"wds:{tmp_path}/{name}", "train")))
        assert found[:-1] == list(range(num_right))
        assert "cut off or damaged after" in str(found[-1])


def test_hidden_members_are_of_no_sample(tmp_path: Path) -> None:
    """macOS puts one beside each file."""
    members = [("data/._0.jpg", b"x"), ("data/0.jpg", png(0)), ("data/._0.txt", b"x"), ("data/0.txt", b"thing 0")]
    write_tar(tmp_path / "a.tar", members)
    assert list(outcomes(open_source(f"wds:{tmp_path}/a.tar", "train"))) == [0]


def test_an_index_that_cannot_be_kept_or_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = f"wds:{write_shards(tmp_path / 'shards')}"
    (tmp_path / "shards" / ".mmjax").touch()
    (tmp_path / "cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="cannot be kept in .* set XDG_CACHE_HOME to a folder"):
        open_source(spec, "train")
    (tmp_path / "shards" / ".mmjax").unlink()
    open_source(spec, "train")
    (kept,) = (tmp_path / "shards" / ".mmjax").iterdir()
    (kept / "index.json").write_text("")
    with pytest.raises(UserError, match="is damaged .* delete it, and it is made again"):
        open_source(spec, "train")


def test_who_makes_the_same_index_takes_the_one_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, build = storage.find(write_shards(tmp_path)), tar_index.build

    def slowly(given):
        monkeypatch.setattr(tar_index, "build", build)
        tar_index.tar_index(given)
        return build(given)

    monkeypatch.setattr(tar_index, "build", slowly)
    assert len(tar_index.tar_index(shards)) == 12
    assert len(list((tmp_path / ".mmjax").iterdir())) == 1


def test_a_tar_cut_anywhere_gives_right_pairs_and_says_so(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", [m for n in range(3) for m in sample(str(n), n)]).read_bytes()
    # From where there is any caption, to where the last member ends.
    start, end, rng = whole.index(b"0.txt") + 512, len(whole.rstrip(b"\0")), random.Random(0)
    for place, length in enumerate([*range(start, end, 512), *(rng.randrange(start, end) for _ in range(40))]):
        path = tmp_path / f"{place}.tar"
        path.write_bytes(whole[:length])
        found = list(outcomes(open_source(f"wds:{path}", "train")))
        right = [number for number in found if isinstance(number, int)]
        assert right == list(range(len(right))), length
        assert "is cut off or damaged after" in str(found[-1]), length


def test_a_damaged_header_is_the_end_of_its_shard_alone(tmp_path: Path) -> None:
    spec = f"wds:{write_shards(tmp_path, 2, 3)}"
    path = tmp_path / "00000.tar"
    content = bytearray(path.read_bytes())
    at = content.index(b"000000001.jpg")
    content[at : at + 400] = os.urandom(400)
    path.write_bytes(content)
    found = list(outcomes(open_source(spec, "train")))
    assert found[0] == 0
    assert "cut off or damaged after '000000000'" in found[1]
    assert found[2:] == [3, 4, 5]


def test_bad_samples_stay_in_their_places(tmp_path: Path) -> None:
    members = [
        *sample("a", 0),
        ("no_text.jpg", png(1)),
        ("no_image.txt", b"thing"),
        ("latin.jpg", png(1)), ("latin.txt", "caf\xe9".encode("latin-1")),
        ("blank.jpg", png(1)), ("blank.txt", b" \n"),
        ("twice.jpg", png(1)), ("twice.jpg", png(2)), ("twice.txt", b"thing 1"),
        *sample("b", 5),
        *sample("a", 6),
        *sample("c", 7),
    ]  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    found = list(outcomes(open_source(f"wds:{tmp_path}/a.tar", "train")))
    reasons = {1: "has no caption (no .txt)", 2: "has no image (no .jpg or", 3: "not UTF-8", 4: "its caption is ''"}
    reasons |= {5: "'twice', or a member of it, is in", 7: "'a', or a member of it, is in"}
    assert {place: result for place, result in enumerate(found) if isinstance(result, int)} == {0: 0, 6: 5, 8: 7}
    for place, reason in reasons.items():
        assert reason in str(found[place])


@pytest.mark.parametrize(
    ("pattern", "options", "message"),
    [
        ("{tars}/9.tar", {}, "9.tar cannot be read (No such file or directory): check the path"),
        ("{tars}/x*.tar", {}, "no file fits"),
        ("{tars}/{{0..", {}, "write {{000..127}} or {{a,b}}"),
        ("{tars}", {}, "is a folder: give its files, such as"),
        ("{tars}/nothing.tar", {}, "nothing.tar has no samples: their members are called KEY.jpg"),
        ("{tars}/empty.tar", {}, "empty.tar is not a tar that can be read by index (empty file): unpack"),
        ("{tars}/zipped.tar", {}, "zipped.tar is not a tar that can be read by index"),
        ("{tars}/00000.tar", {"text_key": "txtt"}, "data.text_key 'txtt' does not exist: did you mean txt"),
        ("{tars}/00000.tar", {"image_key": "jpgg"}, "data.image_key 'jpgg' does not exist: did you mean jpg"),
        ("ftpx://host/a.tar", {}, "write a path, or an address such as https://"),
    ],
)
def test_errors_are_one_line_with_the_remedy(pattern: str, options: dict, message: str, tmp_path: Path) -> None:
    write_shards(tmp_path, 1)
    (tmp_path / "empty.tar").touch()
    write_tar(tmp_path / "nothing.tar", [("README", b"of no sample")])
    (tmp_path / "zipped.tar").write_bytes(gzip.compress((tmp_path / "00000.tar").read_bytes()))
    with pytest.raises(UserError) as caught:
        open_source("wds:" + pattern.format(tars=tmp_path), "train", **options)
    assert message.replace("{{", "{").replace("}}", "}") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_many_tars_are_indexed_by_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = write_shards(tmp_path, num_shards=5)
    shards = storage.find(pattern)
    by_threads = tar_index.build(shards)
    monkeypatch.setattr(tar_index, "MANY_SHARDS", 5)
    monkeypatch.setattr(tar_index, "ThreadPoolExecutor", None)
    by_processes = tar_index.build(shards)
    assert by_processes.kind_names == by_threads.kind_names
    for name, array in by_threads.arrays.items():
        np.testing.assert_array_equal(by_processes.arrays[name], array)


@pytest.mark.parametrize("split", ["train", "train[2:5]+train[7:]"])
def test_a_part_takes_its_places_along(tmp_path: Path, split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a machine that has no index, and of 4,000 samples those of 10."""
    source = open_source(f"wds:{write_shards(tmp_path / 'tars', num_shards=4, num_samples=3)}", split)
    whole, names = list(outcomes(source)), [source[number].name for number in range(len(source))]
    monkeypatch.setattr(tar_index, "_load", lambda *_: pytest.fail("it has its places with it"))
    for start, stop in itertools.combinations(range(len(source) + 1), 2):
        part = pickle.loads(pickle.dumps(part_of(source, range(start, stop))))
        assert list(outcomes(part)) == whole[start:stop]
        assert [part[number].name for number in range(len(part))] == names[start:stop]
    assert not len(part_of(source, range(3, 3)))


def test_a_part_is_as_large_as_what_it_has(tmp_path: Path) -> None:
    source = open_source(f"wds:{write_shards(tmp_path, num_shards=1, num_samples=1000)}", "train")
    sizes = [len(pickle.dumps(part_of(source, range(500, 500 + number)))) for number in (10, 20)]
    assert sizes[0] < 4_000
    assert sizes[1] - sizes[0] < 1_500


def test_a_source_that_is_opened_anew_has_no_parts(tmp_path: Path) -> None:
    (tmp_path / "table.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    for split in ("train", "train[:1]"):
        source = open_source(f"jsonl:{tmp_path}/table.jsonl", split, image_key="")
        assert part_of(source, range(1)) is None


def test_an_index_is_copied_to_other_processes_by_its_folder(tmp_path: Path) -> None:
    """Not its arrays, which have 86 bytes a sample."""
    source = open_source(f"wds:{write_shards(tmp_path, num_shards=2, num_samples=500)}", "train")
    packed = pickle.dumps(source)
    assert len(packed) < 5_000
    assert list(outcomes(pickle.loads(packed))) == list(outcomes(source))
