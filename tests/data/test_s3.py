"""Data of an S3-compatible store, which runs here: read by range as files are, and what it refuses is said."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import s3fs
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from mmjax import ending
from mmjax.data import storage
from mmjax.data.prepare import __main__ as prepare
from mmjax.data.prepare.folder import Folder
from mmjax.data.prepare.runners import Job, Runner
from mmjax.data.records import BadRecord, Unreachable
from mmjax.data.sources.specs import open_source
from mmjax.errors import UserError
from tests.data.sources.tiny_tars import write_shards

BUCKET = "pairs"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    """A store with three tars of four samples, `s3://pairs/tars/`."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    storage.filesystem_of.cache_clear()
    files = s3fs.S3FileSystem()
    files.mkdir(BUCKET)
    write_shards(tmp_path / "tars")
    files.put(str(tmp_path / "tars"), f"{BUCKET}/", recursive=True)
    yield files
    files.rm(BUCKET, recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
    storage.filesystem_of.cache_clear()


@pytest.mark.parametrize("pattern", ["{00000..00002}.tar", "*.tar"])
def test_tars_of_a_bucket_have_the_records_of_local_ones(
    bucket: s3fs.S3FileSystem, pattern: str, tmp_path: Path
) -> None:
    remote = open_source(f"wds:s3://{BUCKET}/tars/{pattern}", "train")
    local = open_source(f"wds:{tmp_path}/tars/*.tar", "train")
    assert len(remote) == len(local) == 12
    for index in range(12):
        assert (remote[index].image, remote[index].captions) == (local[index].image, local[index].captions)


def test_a_table_of_a_bucket_names_images_beside_it(bucket: s3fs.S3FileSystem, tmp_path: Path) -> None:
    image = open_source(f"wds:{tmp_path}/tars/*.tar", "train")[0].image
    bucket.pipe(f"{BUCKET}/table/images/a.png", image)
    bucket.pipe(
        f"{BUCKET}/table/table.jsonl", b'{"image": "images/a.png", "text": "one"}\n{"image": "b", "text": "no"}'
    )
    source = open_source(f"jsonl:s3://{BUCKET}/table/table.jsonl", "train")
    assert source[0].image == image
    with pytest.raises(BadRecord, match=r"s3://pairs/table/b cannot be read"):
        source[1]


def test_a_shard_that_was_written_anew_stops_the_start(bucket: s3fs.S3FileSystem) -> None:
    open_source(f"wds:s3://{BUCKET}/tars/*.tar", "train")
    content = bucket.cat(f"{BUCKET}/tars/00001.tar")
    bucket.pipe(f"{BUCKET}/tars/00001.tar", content[:-1] + b"x")
    bucket.invalidate_cache()
    with pytest.raises(UserError, match=r"00001.tar was written anew since its index was made"):
        open_source(f"wds:s3://{BUCKET}/tars/*.tar", "train")


@pytest.mark.parametrize("place", [f"{BUCKET}/tars/00009.tar", "nowhere/00000.tar"])
def test_what_is_not_there_is_one_line(bucket: s3fs.S3FileSystem, place: str) -> None:
    with pytest.raises(UserError, match=rf"s3://{place} cannot be read \(.*\): check the path") as caught:
        open_source(f"wds:s3://{place}", "train")
    assert "\n" not in str(caught.value)


def test_a_pattern_without_files_is_one_line(bucket: s3fs.S3FileSystem) -> None:
    with pytest.raises(UserError, match=rf"no file fits s3://{BUCKET}/images/\*.tar: check the pattern"):
        open_source(f"wds:s3://{BUCKET}/images/*.tar", "train")


@pytest.mark.parametrize(("status", "passes"), [(403, False), (404, False), (429, True), (500, True), (503, True)])
def test_a_refusal_that_may_pass_is_asked_again(
    bucket: s3fs.S3FileSystem, status: int, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As botocore says it, behind what s3fs makes of it."""
    source = open_source(f"wds:s3://{BUCKET}/tars/*.tar", "train")
    refusal = ClientError({"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")

    def refused(*arguments: object, **options: object) -> bytes:
        raise OSError("it was refused") from refusal

    filesystem, _ = storage.filesystem_of(f"s3://{BUCKET}/tars/00000.tar")
    monkeypatch.setattr(filesystem, "cat_file", refused)
    with pytest.raises(BadRecord, match="00000.tar cannot be read") as caught:
        source[0]
    assert isinstance(caught.value, Unreachable) == passes


def test_what_is_prepared_goes_to_a_bucket(bucket: s3fs.S3FileSystem, tmp_path: Path) -> None:
    """The same files as here, killed and continued, and none in the folder of another preparation."""
    given = [f"--source=wds:s3://{BUCKET}/tars/*.tar", "--dedup=exact", "--shards=3", "--workers=1"]
    assert ending.status(prepare.main, [*given, f"--out={tmp_path / 'out'}"]) == 0
    there = f"s3://{BUCKET}/prepared"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "prepare", partial(_killed_while_writing, prepare.prepare))
        assert ending.status(prepare.main, [*given, f"--out={there}"]) == 130
    assert len(bucket.ls(f"{BUCKET}/prepared/unfinished")) == 5, "what was asked, three parts that are looked at, and 1"
    assert ending.status(prepare.main, [*given, f"--out={there}"]) == 0
    here = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    bucket.invalidate_cache()
    assert {path.rpartition("/")[2]: bucket.cat(path) for path in bucket.ls(f"{BUCKET}/prepared")} == here
    assert ending.status(prepare.main, [*given, f"--out={there}"]) == 0
    assert ending.status(prepare.main, [*given, "--resize=8", f"--out={there}"]) == 2


def _killed_while_writing(inner: Callable, settings: object, folder: Folder, run: Runner) -> None:
    def killed(work: Callable[..., None], jobs: Sequence[Job], what: str) -> None:
        run(work, jobs if what == "looking" else jobs[:1], what)
        if what == "writing":
            raise KeyboardInterrupt

    inner(settings, folder, killed)


def test_a_preparation_that_keeps_nothing_removes_no_bucket(bucket: s3fs.S3FileSystem, tmp_path: Path) -> None:
    bucket.mkdir("own")
    given = [f"--source=wds:{tmp_path}/tars/*.tar", "--workers=1", "--filter=min_side=1000", "--out=s3://own"]
    assert ending.status(prepare.main, given) == 2
    bucket.invalidate_cache()
    assert "own" in bucket.ls("")
    assert bucket.ls("own") == []
    bucket.rmdir("own")


def test_a_folder_that_a_console_made_is_empty(bucket: s3fs.S3FileSystem, tmp_path: Path) -> None:
    bucket.touch(f"{BUCKET}/prepared/")
    given = [f"--source=wds:{tmp_path}/tars/*.tar", "--workers=1", f"--out=s3://{BUCKET}/prepared"]
    assert ending.status(prepare.main, given) == 0


def test_what_cannot_be_removed_is_said_and_the_rest_is_finished(
    bucket: s3fs.S3FileSystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError("may not be deleted")

    filesystem, _ = storage.filesystem_of(f"s3://{BUCKET}/prepared")
    given = [f"--source=wds:{tmp_path}/tars/*.tar", "--workers=1", f"--out=s3://{BUCKET}/prepared"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filesystem, "rm", refused)
        for _ in range(2):
            assert ending.status(prepare.main, given) == 0
            assert f"s3://{BUCKET}/prepared/unfinished is left" in capsys.readouterr().err


def test_a_bucket_that_is_not_there_is_one_line(
    bucket: s3fs.S3FileSystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--source=wds:{tmp_path}/tars/*.tar", "--workers=1", "--out=s3://nowhere/prepared"]
    assert ending.status(prepare.main, given) == 2
    assert "error: s3://nowhere/prepared cannot be used" in capsys.readouterr().err
