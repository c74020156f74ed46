"""What an index may show: the records of a table, and no file from outside its folder."""

import json
from pathlib import Path

import pytest

from mmjax.data.records import BadRecord
from mmjax.serving.datasets import open_records
from tests.data.http_store import serve
from tests.data.tiny_sources import png


@pytest.mark.parametrize("is_remote", [False, True], ids=["here", "behind a server"])
def test_a_table_shows_no_file_from_outside_its_folder(
    tmp_path: Path, is_remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    secret = tmp_path / "secret.png"
    (tmp_path / "data" / "link.png").symlink_to(secret)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (secret, tmp_path / "data" / "0.png", tmp_path / "data" / "sub" / "1.png"):
        path.write_bytes(png(0))
    with serve(tmp_path) as (server, _):
        folder = f"{server}/data" if is_remote else str(tmp_path / "data")
        names = ["0.png", "sub/1.png", "../secret.png", str(secret), f"{server}/secret.png", "%2e%2e/secret.png"]
        names += [f"file://{secret}", f"local:{secret}", "~/secret.png"]
        # A server follows its own links.
        names += [] if is_remote else ["link.png"]
        (tmp_path / "data" / "table.csv").write_text("image,text\n" + "".join(f"{name},a\n" for name in names))
        records = open_records(f"csv:{folder}/table.csv", None)
        assert [records[number].image for number in range(2)] == [png(0)] * 2
        for number in range(2, len(names)):
            with pytest.raises(BadRecord, match=r"lies outside|cannot be read"):
                records[number]


def test_no_frame_of_a_video_comes_from_outside(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for path in (tmp_path / "secret.png", tmp_path / "data" / "0.png"):
        path.write_bytes(png(0))
    lines = [{"image": frames, "text": "a"} for frames in (["0.png", "0.png"], ["0.png", "../secret.png", "0.png"])]
    (tmp_path / "data" / "table.jsonl").write_text("\n".join(map(json.dumps, lines)))
    records = open_records(f"jsonl:{tmp_path}/data/table.jsonl", None)
    assert records[0].image == png(0)
    with pytest.raises(BadRecord, match="secret.png lies outside"):
        records[1]


def test_what_lies_elsewhere_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    with serve(tmp_path) as (server, asked):
        (tmp_path / "table.csv").write_text(f"picture,words\n{server}/0.png,one\n0.png,two\n")
        records = open_records(f"csv:{tmp_path}/table.csv", None, "picture", "words")
        with pytest.raises(BadRecord, match="lies outside"):
            records[0]
        assert records[1].captions == ("two",)
        assert not asked.requests
