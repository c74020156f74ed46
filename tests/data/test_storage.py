"""Files behind a web server: the same records, and a word for each way in which a server fails."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmjax.data import storage
from mmjax.data.patience import PatientSource
from mmjax.data.records import BadRecord, Unreachable
from mmjax.data.sources import tar_index
from mmjax.data.sources.specs import open_source
from mmjax.data.storage import File
from mmjax.errors import UserError
from tests.data.http_store import Store, serve
from tests.data.sources.tiny_tars import write_shards

Server = tuple[str, Store]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Three tars of four samples behind a web server; indices are kept in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_shards(tmp_path / "tars")
    with serve(tmp_path / "tars") as found:
        yield found


def test_tars_behind_a_server_have_the_records_of_local_ones(server: Server, tmp_path: Path) -> None:
    address, store = server
    remote = open_source(f"wds:{address}/{{00000..00002}}.tar", "train")
    local = open_source(f"wds:{tmp_path}/tars/*.tar", "train")
    store.ranges = 0
    for index in range(12):
        assert (remote[index].image, remote[index].captions) == (local[index].image, local[index].captions)
    # One request a sample: its image and its text lie beside each other.
    assert store.ranges == 24
    assert len(list((tmp_path / "cache" / "mmjax").iterdir())) == 1


@pytest.mark.parametrize("status", [403, 404, 429, 503])
def test_a_server_that_refuses_at_the_start_is_one_line(
    server: Server, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LOOKUP_SECS", 0.5)
    address, store = server
    store.refuse(status, times=-1)
    with pytest.raises(UserError, match=rf"00000.tar cannot be read \({status}.*\): check the path") as caught:
        open_source(f"wds:{address}/00000.tar", "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_at_the_start_is_asked_again(server: Server, status: int) -> None:
    address, store = server
    store.refuse(status, times=3)
    assert len(open_source(f"wds:{address}/00000.tar", "train")) == 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_a_server_refuses_for_a_while_is_asked_for_again(server: Server, status: int) -> None:
    address, store = server
    source = PatientSource(open_source(f"wds:{address}/00000.tar", "train"), retry_secs=30.0)
    store.refuse(status, times=2)
    assert source[0].captions == ("thing 0",)
    assert store.times == 0


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_a_server_refuses_for_good_is_not_asked_for_again(server: Server, status: int) -> None:
    address, store = server
    source = PatientSource(open_source(f"wds:{address}/00000.tar", "train"), retry_secs=30.0)
    store.refuse(status, times=1)
    with pytest.raises(BadRecord, match="cannot be read"):
        source[0]
    assert source[0].captions == ("thing 0",)


@pytest.mark.parametrize("manner", ["hang up", "silent", "busy"])
def test_a_server_that_fails_while_the_index_is_made_is_one_line(
    server: Server, manner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SILENT_SECS", 0.3)
    monkeypatch.setattr(storage, "LOOKUP_SECS", 0.5)
    address, store = server
    store.manner = manner
    with pytest.raises(UserError, match=r"00000.tar cannot be read") as caught:
        open_source(f"wds:{address}/00000.tar", "train")
    assert "\n" not in str(caught.value)
    store.manner = ""
    assert len(open_source(f"wds:{address}/00000.tar", "train")) == 4


def test_a_server_that_is_not_there_yet_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, info = [], storage._facts

    def late(filesystem, path, address):
        asked.append(address)
        return info(filesystem, path, address) if len(asked) > 2 else refused()

    def refused():
        raise FileNotFoundError("address") from ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(storage, "_facts", late)
    assert len(open_source(f"wds:{server[0]}/00000.tar", "train")) == 4
    assert len(asked) == 3


def test_what_is_asked_of_a_web_server_is_no_wildcard(server: Server) -> None:
    """A listing would take a refusal for an answer."""
    address, store = server
    store.refuse(503, times=2)
    assert len(open_source(f"wds:{address}/00000.tar?token=1", "train")) == 4


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadRecord, match="is not a file"):
        storage.read_whole(str(tmp_path / "pipe"), str(tmp_path))


def test_a_file_that_is_gone_is_a_bad_record(server: Server, tmp_path: Path) -> None:
    address, _ = server
    source = open_source(f"wds:{address}/00000.tar", "train")
    (tmp_path / "tars" / "00000.tar").unlink()
    with pytest.raises(BadRecord, match=r"00000.tar cannot be read") as caught:
        source[0]
    assert not isinstance(caught.value, Unreachable)


@pytest.mark.parametrize("manner", ["half", "whole", "hang up", "silent"])
def test_an_answer_that_is_not_the_range_is_none(server: Server, manner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SILENT_SECS", 0.5)
    address, store = server
    source = open_source(f"wds:{address}/00000.tar", "train")
    store.manner = manner
    with pytest.raises(Unreachable):
        source[0]
    store.manner = ""
    assert source[0].captions == ("thing 0",)


def test_a_file_that_ends_early_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    file = File(str(tmp_path / "file"), 10)
    assert storage.read(file, 2, 3) == b"234"
    assert storage.read(file, 2, 0) == b""
    with pytest.raises(BadRecord, match="ends at 10: it is cut off"):
        storage.read(file, 8, 3)


def test_a_storage_without_its_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(address: str) -> None:
        raise ImportError("Install s3fs to access S3")

    storage.filesystem_of.cache_clear()
    monkeypatch.setattr(storage.fsspec.core, "url_to_fs", missing)
    with pytest.raises(UserError, match=r"s3://a/b.tar: Install s3fs .*; pip install -r requirements-remote.txt"):
        storage.find("s3://a/b.tar")


def test_the_index_of_remote_tars_is_read_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address, _ = server
    open_source(f"wds:{address}/00000.tar", "train")
    monkeypatch.setattr(tar_index, "build", lambda shards: pytest.fail("made again"))
    assert len(open_source(f"wds:{address}/00000.tar", "train")) == 4
