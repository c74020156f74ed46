"""Data is prepared as asked: what is dropped has its reason, what is kept is a pair, and what was killed goes on."""

import contextlib
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mmjax import ending
from mmjax.data.prepare import __main__ as prepare
from mmjax.data.prepare import choice, facts, manifest, parts, pipeline, shards
from mmjax.data.prepare.facts import exact_hash, perceptual_hash
from mmjax.data.prepare.folder import WORK, Folder
from mmjax.data.prepare.settings import Settings
from mmjax.data.records import BadRecord, Record, Unreachable
from mmjax.data.sources.specs import open_source
from mmjax.errors import UserError
from tests.data.sources.tiny_tars import write_shards

SIDE = 96


def picture(number: int, size: int = SIDE) -> Image.Image:
    """Colours that change slowly, other ones for each number."""
    small = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "png", **options})
    return buffer.getvalue()


def write(folder: Path, split: str, images: list[bytes], captions: list[str]) -> None:
    (folder / split).mkdir(parents=True)
    lines = [{"file_name": f"{number}.img", "text": caption} for number, caption in enumerate(captions)]
    (folder / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number, image in enumerate(images):
        (folder / split / f"{number}.img").write_bytes(image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, of which 3 and 7 are one file, 8 is 2 as a JPEG, 9 is small, and 10 is cut off; 1 and, as a
    JPEG, 4 are in the split "test" too."""
    folder = tmp_path_factory.mktemp("pairs")
    images = [encoded(picture(number)) for number in range(12)]
    images[7], images[8], images[9] = images[3], encoded(picture(2), format="jpeg", quality=80), encoded(picture(9, 20))
    images[10] = images[10][:100]
    captions = [f"a caption of picture {number} in plain English" for number in range(12)]
    captions[11] = "word"
    write(folder, "train", images, captions)
    write(folder, "test", [images[1], encoded(picture(4), format="jpeg", quality=80)], ["one", "four"])
    return folder


@pytest.fixture(autouse=True)
def no_sheet(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second of each preparation."""
    if "sheet" not in request.keywords:
        monkeypatch.setattr(manifest, "draw_sheet", lambda *_: None)


def run(folder: Path, out: Path, *arguments: str) -> dict:
    given = [f"--source=imagefolder:{folder}", f"--out={out}", "--workers=1", *arguments]
    assert ending.status(prepare.main, given) == 0
    return json.loads((out / "manifest.json").read_text())


def kept(out: Path) -> Iterator[int]:
    """The numbers that the captions of what was written say."""
    source = open_source(f"tfds:{out}", "train")
    for index in range(len(source)):
        words = source[index].captions[0].split()
        yield int(words[4]) if len(words) > 4 else 11


@pytest.mark.parametrize(
    ("arguments", "expected", "dropped"),
    [
        ([], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11], {"unreadable": 1}),
        (["--filter=min_side=64"], [0, 1, 2, 3, 4, 5, 6, 7, 8, 11], {"unreadable": 1, "min_side": 1}),
        (["--filter=min_words=2", "--filter=max_chars=100"], [*range(10)], {"unreadable": 1, "min_words": 1}),
        (["--dedup=exact"], [0, 1, 2, 3, 4, 5, 6, 8, 9, 11], {"unreadable": 1, "duplicate": 1}),
        (["--dedup=perceptual"], [0, 1, 2, 3, 4, 5, 6, 9, 11], {"unreadable": 1, "duplicate": 2}),
        (["--decontaminate={test}"], [0, 2, 3, 4, 5, 6, 7, 8, 9, 11], {"unreadable": 1, "in an evaluation": 1}),
        (
            ["--decontaminate={test}", "--dedup=perceptual"],
            [0, 2, 3, 5, 6, 9, 11],
            {"unreadable": 1, "in an evaluation": 2, "duplicate": 2},
        ),
    ],
)
def test_what_is_dropped_has_its_reason(
    folder: Path, tmp_path: Path, arguments: list[str], expected: list[int], dropped: dict[str, int]
) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "test").symlink_to(folder / "test")
    given = [argument.format(test=f"imagefolder:{tmp_path / 'eval'}") for argument in arguments]
    found = run(folder, tmp_path / "out", *given)
    assert list(kept(tmp_path / "out")) == expected
    assert found["dropped"] == dropped
    assert (found["records"], found["kept"], found["yield"]) == (12, len(expected), len(expected) / 12)
    assert "10.img: its image cannot be decoded" in found["unreadable"][0]


def test_pairs_stay_together_in_any_number_of_shards(folder: Path, tmp_path: Path) -> None:
    source = open_source(f"imagefolder:{folder}", "train")
    for num_shards in (1, 5):
        out = tmp_path / str(num_shards)
        found = run(folder, out, f"--shards={num_shards}")
        written = open_source(f"tfds:{out}", "train")
        assert len(list(out.glob("pairs-train.array_record-*"))) == num_shards == len(found["files"])
        for index, number in enumerate([*range(10), 11]):
            assert (written[index].image, written[index].captions) == (source[number].image, source[number].captions)


def test_larger_images_are_scaled_and_smaller_ones_are_as_they_are(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", "--resize=48")
    source, written = open_source(f"imagefolder:{folder}", "train"), open_source(f"tfds:{tmp_path / 'out'}", "train")
    scaled = Image.open(io.BytesIO(written[0].image))
    assert (scaled.size, scaled.format) == ((48, 48), "JPEG")
    exact = encoded(picture(0).resize((48, 48), Image.Resampling.LANCZOS), format="jpeg", quality=92)
    assert abs(np.asarray(scaled).astype(float) - np.asarray(Image.open(io.BytesIO(exact)))).mean() < 1
    assert written[9].image == source[9].image


def test_parts_of_tars_are_read_by_the_places_that_come_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing of a part is kept: two of three here."""
    pattern = write_shards(tmp_path / "tars")
    monkeypatch.setattr(parts, "opened_here", lambda _: pytest.fail("it would read the index of all tars"))
    given = [f"--source=wds:{pattern}", f"--out={tmp_path / 'out'}", "--workers=1", "--shards=3"]
    assert ending.status(prepare.main, [*given, "--filter=min_chars=8"]) == 0
    written = open_source(f"tfds:{tmp_path / 'out'}", "train")
    assert [written[number].captions for number in range(len(written))] == [("thing 10",), ("thing 11",)]


def test_a_wide_image_keeps_its_shape() -> None:
    wide = encoded(picture(0).resize((300, 100)))
    scaled = shards._image(wide, Settings("emoji", resize=50))
    assert Image.open(io.BytesIO(scaled)).size == (150, 50)


@pytest.mark.parametrize("step", ["gather_part", "write_part"])
def test_a_killed_preparation_goes_on(folder: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--shards=4", "--dedup=perceptual", "--resize=48")
    run(folder, tmp_path / "whole", *arguments)
    work, count = getattr(pipeline, step), itertools.count()

    def killed(*job: object) -> None:
        if next(count) == 2:
            raise KeyboardInterrupt
        work(*job)

    given = [f"--source=imagefolder:{folder}", f"--out={tmp_path / 'parted'}", "--workers=1", *arguments]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, step, killed)
        assert ending.status(prepare.main, given) == 130
    done = []
    monkeypatch.setattr(pipeline, step, lambda *job: (done.append(1), work(*job)))
    read = []
    monkeypatch.setattr(facts, "gather", lambda *a, inner=facts.gather: (read.append(a[2]), inner(*a))[1])
    written = []
    monkeypatch.setattr(shards, "write", lambda *a, inner=shards.write: (written.append(a[4]), inner(*a))[1])
    run(folder, tmp_path / "parted", *arguments)
    # Two of four parts of that step were done, and all of those before it.
    assert len(read) == (2 if step == "gather_part" else 0)
    assert len(written) == (4 if step == "gather_part" else 2)
    for path in sorted((tmp_path / "whole").iterdir()):
        assert (tmp_path / "parted" / path.name).read_bytes() == path.read_bytes(), path.name


def test_licences_are_counted_filtered_and_kept(folder: Path, tmp_path: Path) -> None:
    """Of images whose licence is said, and of one whose is not."""
    (tmp_path / "pairs").mkdir()
    names = {0: "cc0", 1: "by", 2: "cc0", 3: " by-nc ", 5: 70 * "long " + "end"}
    lines = [
        {"file_name": str(folder / "train" / f"{number}.img"), "text": f"a caption of picture {number}", "of": licence}
        for number, licence in names.items()
    ] + [{"file_name": str(folder / "train" / "4.img"), "text": "a caption of picture 4"}]
    (tmp_path / "pairs" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = run(tmp_path / "pairs", tmp_path / "all", "--licence-key=of")
    counts = {"cc0": 2, "by": 1, "by-nc": 1, names[5][:64]: 1, "": 1}
    assert found["licences"] == {name: count / 6 for name, count in counts.items()}
    found = run(tmp_path / "pairs", tmp_path / "long", "--licence-key=of", f"--filter=licences=by, {names[5]}")
    assert found["kept"] == 2
    found = run(tmp_path / "pairs", tmp_path / "some", "--licence-key=of", "--filter=licences=cc0, by")
    assert (found["kept"], found["dropped"]) == (3, {"licences": 3})
    written = open_source(f"tfds:{tmp_path / 'some'}", "train", licence_key="licence")
    assert [written[number].licence for number in range(3)] == ["cc0", "by", "cc0"]


@pytest.mark.sheet
def test_the_sheet_shows_what_is_kept_and_what_is_not(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", "--dedup=perceptual", "--filter=min_side=64")
    sheet = np.asarray(Image.open(tmp_path / "out" / "samples.png").convert("RGB")).astype(int)
    assert min(sheet.shape[:2]) > 300
    # Reasons are written in red, and stand below what is kept.
    red = (sheet[..., 0] - sheet[..., 1] > 100) & (sheet[..., 0] - sheet[..., 2] > 100)
    assert red[sheet.shape[0] // 2 :].sum() > 50


def test_processes_write_the_same(folder: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        run(folder, tmp_path / str(workers), "--shards=2", f"--workers={workers}")
    for path in sorted((tmp_path / "1").glob("pairs-*")):
        assert (tmp_path / "2" / path.name).read_bytes() == path.read_bytes()


def test_a_finished_folder_is_left_alone_and_another_preparation_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(folder, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    run(folder, out)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    given = [f"--source=imagefolder:{folder}", f"--out={out}"]
    assert ending.status(prepare.main, [*given, "--resize=32"]) == 2
    assert "was prepared otherwise (resize 0 -> 32): give another --out" in capsys.readouterr().err


def test_a_source_that_grew_is_another_preparation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [encoded(picture(number)) for number in range(3)]
    write(tmp_path / "few", "train", images[:2], ["one", "two"])
    write(tmp_path / "more", "train", images, ["one", "two", "three"])
    link = tmp_path / "pairs"
    link.symlink_to(tmp_path / "few")
    run(link, tmp_path / "out")
    link.unlink()
    link.symlink_to(tmp_path / "more")
    assert ending.status(prepare.main, [f"--source=imagefolder:{link}", f"--out={tmp_path / 'out'}"]) == 2
    assert "was prepared otherwise (records 2 -> 3): give another --out" in capsys.readouterr().err


def test_files_are_there_whole_or_not_at_all(tmp_path: Path) -> None:
    out = Folder.at(str(tmp_path / "out"))
    assert out.names() == set()
    out.claim()
    out.write(f"{WORK}/a.txt", b"a")
    with contextlib.suppress(KeyboardInterrupt), out.filled() as made:
        (made / "half.txt").write_text("half")
        raise KeyboardInterrupt
    assert out.names() == {WORK}
    assert Folder.at(str(tmp_path / "out" / WORK)).names() == {"a.txt"}
    (tmp_path / "out" / "of_others").touch()
    out.give_up()
    assert out.names() == {"of_others"}
    (tmp_path / "out" / "of_others").unlink()
    out.give_up()
    assert not (tmp_path / "out").exists()


def test_an_evaluation_that_grew_is_another_preparation(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was known of a smaller one would leave its new images in."""
    (tmp_path / "eval").mkdir()
    lines = (folder / "test" / "metadata.jsonl").read_text().splitlines(keepends=True)
    for name in ("0.img", "1.img"):
        (tmp_path / "eval" / name).symlink_to(folder / "test" / name)
    given = [f"--source=imagefolder:{folder}", f"--out={tmp_path / 'out'}", "--workers=1"]
    given.append(f"--decontaminate=imagefolder:{tmp_path / 'eval'}")

    def killed(*job: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "eval" / "metadata.jsonl").write_text(lines[0])
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_part", killed)
        assert ending.status(prepare.main, given) == 130
    (tmp_path / "eval" / "metadata.jsonl").write_text("".join(lines))
    assert ending.status(prepare.main, given) == 2
    assert "was prepared otherwise (held_out" in capsys.readouterr().err


def test_a_folder_that_was_killed_at_its_first_word_is_used(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / WORK).mkdir(parents=True)
    assert run(folder, tmp_path / "out")["records"] == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter=min_sid=3"], "--filter 'min_sid' does not exist: did you mean min_side"),
        (["--filter=min_side"], "--filter min_side has no value: write --filter min_side=64"),
        (["--filter=min_side=many"], "--filter min_side=many is not a number"),
        (["--filter=min_side=5000"], "(11 min_side, 1 unreadable): ask for less"),
        (["--decontaminate=imagefolder:/nowhere"], "data folder /nowhere does not exist"),
        (["--shards=1", "--quality=0"], "--quality=0 is below 1"),
        (["--distance=64", "--dedup=perceptual"], "--distance=64 is not below the 64 bits of a hash"),
        (["--shards=-2"], "--shards=-2 is below 1"),
        (["--workers=-1"], "--workers=-1 is below 0"),
        (["--filter=licences=cc0"], "--filter licences=... needs to know where they are: give --licence-key"),
        (["--licence-key=license"], "licence_key 'license' does not exist: did you mean"),
        (["--split=trian"], "split 'trian' does not exist: did you mean train"),
    ],
)
def test_errors_are_one_line(
    folder: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--source=imagefolder:{folder}", f"--out={tmp_path / 'out'}", "--workers=1", *arguments]
    assert ending.status(prepare.main, given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "the corrected command may use it"


def test_what_lies_in_a_folder_is_not_written_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    assert ending.status(prepare.main, [f"--source=imagefolder:{folder}", f"--out={tmp_path}"]) == 2
    assert f"{tmp_path} holds something else: give another --out" in capsys.readouterr().err


def test_what_cannot_be_reached_is_not_dropped() -> None:
    class Away:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Record:
            raise Unreachable(f"record {index} is away")

    with pytest.raises(UserError, match="record 0 is away: run the same command again, and it goes on from here"):
        facts.gather(Settings("emoji"), Away(), range(3))


def test_what_changes_in_between_is_said() -> None:
    class Gone(list):
        def __getitem__(self, index: int) -> Record:
            raise BadRecord("no such file")

    with pytest.raises(UserError, match=r"record 4 is not what it was \(no such file\): prepare it anew"):
        shards._again(Gone(), 4)


def test_near_hashes_are_those_that_a_direct_count_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 hashes, many of which differ in a few bits of one another."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 60, np.uint64)
    flips = [
        np.uint64(sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 8), replace=False))) for _ in range(300)
    ]
    hashes = np.unique(base[rng.integers(0, 60, 300)] ^ np.array(flips, np.uint64))[:, None]
    for reach, blocks in ((0, 1), (1, 2), (1, 4), (4, 5), (4, 7), (7, 8)):
        monkeypatch.setattr(choice, "num_blocks", lambda *_, blocks=blocks: blocks)
        found = {
            tuple(sorted(pair))
            for left, right in choice.near_pairs(hashes, reach)
            for pair in zip(left, right, strict=True)
        }
        apart = np.bitwise_count(hashes ^ hashes[:, 0])
        expected = {(i, j) for i, j in itertools.combinations(range(len(hashes)), 2) if apart[i, j] <= reach}
        assert found == (expected if reach else set())
        assert len(expected) > 20 or reach < 4


@pytest.mark.parametrize(("num_hashes", "blocks"), [(10, 5), (10**7, 6), (10**9, 7)])
def test_more_hashes_are_told_apart_by_more_blocks(num_hashes: int, blocks: int) -> None:
    assert choice.num_blocks(num_hashes, 4) == blocks


@pytest.mark.parametrize(("size", "words"), [(0, 1), (1, 2), (500, 1), (500, 2)])
def test_kinds_are_numpys_unique(size: int, words: int) -> None:
    hashes = np.random.default_rng(0).integers(0, 12, (size, words), np.uint64)
    kinds, which = choice._kinds(hashes)
    np.testing.assert_array_equal(kinds[which], hashes)
    np.testing.assert_array_equal(np.unique(kinds, axis=0), np.unique(hashes, axis=0))
    assert len(kinds) == len(np.unique(hashes, axis=0))


def test_hashes_tell_images_apart() -> None:
    one, same, other = picture(0), Image.open(io.BytesIO(encoded(picture(0), format="jpeg", quality=70))), picture(1)
    apart = [int(np.bitwise_count(perceptual_hash(one) ^ perceptual_hash(image))) for image in (same, other)]
    assert apart[0] <= 4 < 12 < apart[1]
    assert (exact_hash(encoded(one)) == exact_hash(encoded(one))).all()
    assert (exact_hash(encoded(one)) != exact_hash(encoded(other))).any()


def test_settings_go_through_json() -> None:
    settings = Settings("emoji", filters=(("min_side", "3"),), decontaminate=("csv:a",))
    assert json.loads(json.dumps(settings.to_dict()))["filters"] == [["min_side", "3"]]
    assert replace(settings, dedup="perceptual").reach == 4
    assert settings.reach == 0
