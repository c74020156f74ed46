"""What is read of files elsewhere is kept on this machine, up to a bound, and never for another version of the file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmjax.data import disk_cache, storage
from mmjax.data.sources.specs import open_source
from mmjax.errors import UserError
from tests.data.http_store import Store, serve
from tests.data.sources.tiny_tars import write_shards

Server = tuple[str, Store]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Three tars of four samples behind a web server, and a cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "indices"))
    monkeypatch.setenv(disk_cache.FOLDER, str(tmp_path / "cache"))
    write_shards(tmp_path / "tars")
    with serve(tmp_path / "tars") as found:
        yield found


def test_what_was_read_is_not_asked_for_again(server: Server) -> None:
    address, store = server
    for _ in range(2):
        source = open_source(f"wds:{address}/{{00000..00002}}.tar", "train")
        records = [source[index].image for index in range(12)]
    store.ranges = 0
    again = open_source(f"wds:{address}/{{00000..00002}}.tar", "train")
    assert [again[index].image for index in range(12)] == records
    assert store.ranges == 0


def test_another_version_of_a_file_is_read_anew(server: Server, tmp_path: Path) -> None:
    address, _ = server
    path = tmp_path / "tars" / "note"
    for content in (b"first one", b"other one"):
        path.write_bytes(content)
        (file,) = storage.find(f"{address}/note")
        assert storage.read(file, 0, 9) == content


def test_it_stays_within_its_bound(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(disk_cache.BOUND, "4MB")
    address, _ = server
    (tmp_path / "tars" / "large").write_bytes(bytes(10**7))
    (file,) = storage.find(f"{address}/large")
    for start in range(0, 10**7, 50_000):
        assert storage.read(file, start, 50_000) == bytes(50_000)
    cache = disk_cache.disk_cache()
    assert 3e6 < cache.volume() < 4.2e6
    assert 3e6 < sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.val")) < 4.2e6


def test_files_of_this_machine_are_not_kept(server: Server, tmp_path: Path) -> None:
    source = open_source(f"wds:{tmp_path}/tars/*.tar", "train")
    assert source[0].captions == ("thing 0",)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("text", "expected"), [("200GB", 200e9), ("1.5 TB", 1.5e12), ("1000", 1000), ("7k", 7000)])
def test_bounds_are_bytes(text: str, expected: float) -> None:
    assert disk_cache.num_bytes(text) == expected


def test_what_is_wrong_with_it_is_said_at_the_start(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address, _ = server
    monkeypatch.setenv(disk_cache.BOUND, "much")
    with pytest.raises(UserError, match="MMJAX_CACHE_BYTES=much is no number of bytes: write 200GB"):
        open_source(f"wds:{address}/00000.tar", "train")
    monkeypatch.setenv(disk_cache.BOUND, "1GB")
    monkeypatch.setenv(disk_cache.FOLDER, "/proc/nowhere")
    with pytest.raises(UserError, match=r"MMJAX_CACHE=/proc/nowhere cannot be opened \(.*\): name a folder"):
        open_source(f"wds:{address}/00000.tar", "train")


def test_what_is_damaged_is_read_anew_and_trouble_is_said_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = server
    (tmp_path / "tars" / "large").write_bytes(bytes(10**5))
    (file,) = storage.find(f"{address}/large")
    assert storage.read(file, 0, 10**5) == bytes(10**5)
    (stored,) = (tmp_path / "cache").rglob("*.val")
    stored.write_bytes(bytes(500))
    assert storage.read(file, 0, 10**5) == bytes(10**5)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_cache.disk_cache(), "set", full)
    with pytest.warns(UserWarning, match="MMJAX_CACHE is not used .*No space left") as warned:
        read = [storage.read(file, start, 7) for start in range(3)]
    assert read == 3 * [bytes(7)]
    assert len(warned) == 1
