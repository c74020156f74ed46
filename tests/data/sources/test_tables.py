"""Tables of paths and captions: JSON lines, CSV and TSV, and what is bad in them."""

import json
from pathlib import Path

import pytest

from mmjax.data.records import BadRecord
from mmjax.data.sources import rows
from mmjax.data.sources.specs import list_splits, open_source
from mmjax.errors import UserError
from tests.data.http_store import serve
from tests.data.tiny_sources import png

NUM_ROWS = 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 0 to 4 in a folder of their own, beside where the tables go."""
    (tmp_path / "images").mkdir()
    for number in range(NUM_ROWS):
        (tmp_path / "images" / f"{number}.png").write_bytes(png(number))
    return tmp_path


def write_jsonl(path: Path, end: str = "\n") -> str:
    lines = [json.dumps({"image": f"images/{n}.png", "text": f"thing {n}"}) for n in range(NUM_ROWS)]
    path.write_text(end.join(lines), newline="")
    return f"jsonl:{path}"


def write_csv(path: Path, delimiter: str) -> str:
    lines = [delimiter.join(row) for row in [("image", "text"), *((f"images/{n}.png", f"thing {n}") for n in range(5))]]
    path.write_text("\n".join(lines) + "\n")
    return f"csv:{path}"


EXPECTED = [(png(number), (f"thing {number}",)) for number in range(NUM_ROWS)]


def pairs(spec: str) -> list[tuple[object, tuple[str, ...]]]:
    """Image and captions of every record."""
    source = open_source(spec, "train")
    return [(source[number].image, source[number].captions) for number in range(len(source))]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\n\r\n"])
def test_lines_of_json(folder: Path, end: str) -> None:
    assert pairs(write_jsonl(folder / "table.jsonl", end)) == EXPECTED


def test_lines_are_found_wherever_chunks_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write_jsonl(folder / "table.jsonl")
    for num_bytes in (1, 7, 39, 40, 41):
        monkeypatch.setattr(rows, "CHUNK_BYTES", num_bytes)
        assert pairs(spec) == EXPECTED


@pytest.mark.parametrize(("name", "delimiter"), [("table.csv", ","), ("table.TSV", "\t")])
def test_commas_and_tabs(folder: Path, name: str, delimiter: str) -> None:
    assert pairs(write_csv(folder / name, delimiter)) == EXPECTED


def test_paths_may_be_absolute_or_addresses(folder: Path) -> None:
    with serve(folder / "images") as (address, _):
        places = [str(folder / "images" / "0.png"), f"{address}/1.png", "images/../images/2.png"]
        (folder / "table.csv").write_text("image,text\n" + "".join(f"{place},a\n" for place in places))
        source = open_source(f"csv:{folder}/table.csv", "train")
        assert [source[number].image for number in range(3)] == [png(number) for number in range(3)]


def test_names_on_the_web_are_no_addresses_yet(folder: Path) -> None:
    names = ["50%25.png", "cat#1.png", "cat?1.png", "two words.png"]
    for number, name in enumerate(names):
        (folder / name).write_bytes(png(number))
    (folder / "table.csv").write_text("image,text\n" + "".join(f"{name},a\n" for name in names))
    with serve(folder) as (address, _):
        source = open_source(f"csv:{address}/table.csv?token=1", "train")
        assert [source[number].image for number in range(4)] == [png(number) for number in range(4)]


def test_the_kind_is_what_the_specification_says(folder: Path) -> None:
    """And not how the file is called."""
    spec = write_csv(folder / "table.txt", ",")
    assert pairs(spec) == EXPECTED
    with pytest.raises(UserError, match="has no row that can be read: is it what data.source says"):
        open_source(spec.replace("csv:", "jsonl:"), "train")


def test_a_quote_that_does_not_end_is_one_line(folder: Path) -> None:
    (folder / "table.tsv").write_text('image\ttext\nimages/0.png\t"thing\nimages/1.png\tthing 1\n')
    with pytest.raises(UserError, match=r"table.tsv is not a table \(unexpected end of data\): write it again"):
        open_source(f"csv:{folder}/table.tsv", "train")


def test_a_table_and_its_images_behind_a_server(folder: Path) -> None:
    for spec in (write_jsonl(folder / "table.jsonl"), write_csv(folder / "table.csv", ",")):
        kind, _, path = spec.partition(":")
        with serve(folder) as (address, _):
            assert pairs(f"{kind}:{address}/{Path(path).name}") == EXPECTED


def test_columns_have_the_names_of_the_config(folder: Path) -> None:
    (folder / "table.csv").write_text('filepath,title\nimages/3.png,"one, two\nlines"\n')
    spec = f"csv:{folder}/table.csv"
    assert list_splits(spec) == ("train",)
    record = open_source(spec, "train[:1]", image_key="filepath", text_key="title")[0]
    assert (record.image, record.captions) == (png(3), ("one, two\nlines",))
    assert open_source(spec, "train", image_key="", text_key="title")[0].image is None


def test_bad_rows_stay_in_their_places(folder: Path) -> None:
    long = "word " * 200_000
    lines = [b"image,text", b"images/0.png,thing 0", b"images/1.png", b"images/9.png,a", b"images/1.png,caf\xe9"]
    lines += [b"images/1.png,", f"images/4.png,{long}".encode(), b"images/4.png,thing 4"]
    (folder / "table.csv").write_bytes(b"\n".join(lines))
    source = open_source(f"csv:{folder}/table.csv", "train")
    reasons = {1: "has 1 values for 2 columns", 2: "9.png cannot be read", 3: "not UTF-8", 4: "its caption is ''"}
    for number in range(7):
        if number in reasons:
            with pytest.raises(BadRecord, match=reasons[number]):
                source[number]
    assert [source[number].captions for number in (0, 5, 6)] == [("thing 0",), (long,), ("thing 4",)]


def test_lines_that_are_no_rows_stay_in_their_places(folder: Path) -> None:
    lines = ["[1]", "{", json.dumps({"image": "images/1.png"}), json.dumps({"image": "images/1.png", "text": [1]})]
    lines += [json.dumps({"image": "images/1.png", "text": ["thing", "other"]}), "[" * 100_000]
    (folder / "table.jsonl").write_text("\n".join(lines))
    source = open_source(f"jsonl:{folder}/table.jsonl", "train")
    for number, reason in enumerate(["not a JSON object", "not JSON", "has no 'text'", "its caption is 1"]):
        with pytest.raises(BadRecord, match=reason):
            source[number]
    assert source[4].captions == ("thing", "other")
    with pytest.raises(BadRecord, match="not JSON"):
        source[5]


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("csv:{folder}/none.csv", {}, "none.csv cannot be read (No such file or directory): check the path"),
        ("csv:{folder}/images/*.png", {}, "is 5 files: give one table, or join them"),
        ("csv:{folder}/empty.csv", {}, "empty.csv is empty: write a line with 'image' and 'text' an image"),
        ("csv:{folder}/heads.csv", {}, "heads.csv is empty: write a line"),
        ("csv:{folder}/table.csv", {"image_key": "imag"}, "data.image_key 'imag' does not exist: did you mean image"),
        ("csv:{folder}/table.csv", {"text_key": ""}, "data.text_key is empty: name the column with the captions"),
        ("csv:{folder}/images", {}, "images is a folder: give its files"),
        ("csv:{folder}/table.csv", {"text_key": "texts"}, "data.text_key 'texts' does not exist: did you mean text"),
        ("jsonl:{folder}/table.jsonl", {"split": "test"}, "split 'test' does not exist: choose one of train"),
        ("csv:", {}, "data.source 'csv:' is incomplete: write one of"),
    ],
)
def test_errors_are_one_line_with_the_remedy(spec: str, options: dict, message: str, folder: Path) -> None:
    (folder / "empty.csv").touch()
    (folder / "heads.csv").write_text("image,text\n")
    write_csv(folder / "table.csv", ",")
    write_jsonl(folder / "table.jsonl")
    with pytest.raises(UserError) as caught:
        open_source(spec.format(folder=folder), options.pop("split", "train"), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
