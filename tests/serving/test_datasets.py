"""What an index may show: the records of a table, and no file from outside its folder."""

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
