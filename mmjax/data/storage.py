"""Files on any storage that fsspec knows: paths of this machine, and addresses such as https://, s3:// and gs://."""

import functools
import os
import posixpath
import stat
import urllib.parse
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import tenacity
from braceexpand import braceexpand

from mmjax.data.disk_cache import disk_cache, keep, kept
from mmjax.data.records import BadRecord, Unreachable
from mmjax.errors import UserError

NUM_REQUESTS = 32
"""Requests at a time while many files are looked up: what a store answers is waiting, not work."""
SILENT_SECS = 30.0
"""How long a server may say nothing before it counts as away."""
LOOKUP_SECS = 20.0
"""How long what fails at the start, and may pass, is tried again."""
PASSING_STATUS = (408, 425, 429)
"""What a web server says of now, and not of the file; and so does all from 500."""
FINAL = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, ValueError)
"""What a storage says of a file, while it is there itself; any other error may pass."""
WEB = ("http://", "https://")
HERE = ("file://", "local://")
READ_AHEAD_BYTES = 2**20
VERSION_FACTS = ("mtime", "ETag", "etag", "generation", "LastModified", "last_modified")
"""Where storages say which version of a file it is."""

T = TypeVar("T")


@dataclass(frozen=True)
class File:
    """One file: `address` as fsspec opens it, its size in bytes, and what changes when it is written anew; "" where its
    storage does not say."""

    address: str
    num_bytes: int
    version: str = ""


def find(pattern: str) -> list[File]:
    """The files of `pattern`, in order: braces (`{000..127}`, `{a,b}`) are filled in, and wildcards looked up.

    A path of this machine that is there as it is written is no pattern.

    Raises:
        UserError: nothing fits, a file is not there or is a folder, or its storage cannot be asked.
    """
    pattern = local_path(pattern)
    if is_remote(pattern):
        disk_cache()  # What is wrong with it is said at the start.
    try:
        addresses = [pattern] if os.path.exists(pattern) else list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise UserError(f"{pattern!r}: {error}; write {{000..127}} or {{a,b}}") from error
    with ThreadPoolExecutor(NUM_REQUESTS) as requests:
        files = [file for found in requests.map(_lookup, addresses) for file in found]
    if not files:
        raise UserError(f"no file fits {pattern}: check the pattern")
    return files


def _lookup(address: str) -> list[File]:
    filesystem, path = filesystem_of(address)
    with_prefix = filesystem.unstrip_protocol if is_remote(address) else str
    facts = patiently(lambda: _facts(filesystem, path, address), address)
    return [File(with_prefix(fact["name"]), _size_of(fact, address), _version_of(fact)) for fact in facts]


def patiently(read: Callable[[], T], address: str) -> T:
    """What `read` gives of a file at the start of a run, tried again while that may help.

    Raises:
        UserError: it cannot be read.
    """
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_passes),
        stop=tenacity.stop_after_delay(LOOKUP_SECS),
        wait=tenacity.wait_random_exponential(0.2, 5.0),
        reraise=True,
    )
    try:
        return attempts(read)
    except UserError:
        raise
    except Exception as error:  # Each storage has errors of its own.
        raise UserError(f"{address} cannot be read ({reason(error)}): check the path, and who may read it") from error


def _facts(filesystem: Any, path: str, address: str) -> list[dict[str, Any]]:
    """What the storage says of the file, or of each that fits."""
    # In an address of the web, a question mark begins what is asked.
    wildcards = "*[" if address.startswith(WEB) else "*?["
    if os.path.exists(address) or not any(wildcard in path for wildcard in wildcards):
        facts = filesystem.info(path)
        if facts["type"] == "directory":
            raise UserError(f"{address} is a folder: give its files, such as {address.rstrip('/')}/*.tar")
        return [facts]
    found = filesystem.glob(path, detail=True)
    # A listing says of a link that it is one, and that of a web server not how long a file is.
    asked = [
        found[name]
        if found[name]["type"] == "file" and found[name].get("size") is not None
        else _fact(filesystem, name)
        for name in sorted(found)
        if found[name]["type"] != "directory"
    ]
    return [facts for facts in asked if facts["type"] != "directory"]


def _fact(filesystem: Any, name: str) -> dict[str, Any]:
    try:
        fact: dict[str, Any] = filesystem.info(name)
        return fact
    except FileNotFoundError as error:
        raise UserError(f"{name} is in its folder, and cannot be read: it is a link to what is gone") from error


def _size_of(facts: dict[str, Any], address: str) -> int:
    if facts.get("size") is None:
        raise UserError(f"{address}: its server does not say how long it is: copy it to a store that does")
    return int(facts["size"])


def _version_of(facts: dict[str, Any]) -> str:
    return next((str(facts[name]) for name in VERSION_FACTS if facts.get(name)), "")


def read(file: File, start: int, num_bytes: int) -> bytes:
    """Bytes [start, start + num_bytes) of a file; of one that lies elsewhere, kept as `disk_cache` has it.

    Raises:
        BadRecord: the file is gone, may not be read, or ends before.
        Unreachable: its storage does not answer, or answers with something else.
    """
    cache = disk_cache() if file.version and is_remote(file.address) else None
    if cache is None:
        return _read(file.address, start, num_bytes)
    # Of another version of the file nothing is found.
    key = (file.address, file.version, start, num_bytes)
    found = kept(cache, key)
    if found is None or len(found) != num_bytes:
        found = _read(file.address, start, num_bytes)
        keep(cache, key, found)
    return found


def _read(address: str, start: int, num_bytes: int) -> bytes:
    if not num_bytes:
        return b""
    try:
        found = _read_remote(address, start, num_bytes) if is_remote(address) else _read_here(address, start, num_bytes)
    except Exception as error:  # Each storage has errors of its own.
        raise _failed(address, posixpath.dirname(address), error) from error
    if len(found) == num_bytes:
        return found
    if not is_remote(address):
        raise BadRecord(f"{address} ends at {start + len(found)}: it is cut off")
    raise Unreachable(f"{address} was asked for {num_bytes} bytes, and gave {len(found)}")


def _read_remote(address: str, start: int, num_bytes: int) -> bytes:
    filesystem, path = filesystem_of(address)
    found: bytes = filesystem.cat_file(path, start=start, end=start + num_bytes)
    return found


def _read_here(path: str, start: int, num_bytes: int) -> bytes:
    """Without fsspec, which takes five times as long for what is in memory already."""
    file = os.open(path, os.O_RDONLY)
    try:
        parts = [os.pread(file, num_bytes, start)]
        # Linux gives at most 2 GiB at once; nothing is the end of the file.
        while parts[-1] and (missing := num_bytes - sum(map(len, parts))):
            parts.append(os.pread(file, missing, start + num_bytes - missing))
        return b"".join(parts)
    finally:
        os.close(file)


def read_whole(address: str, folder: str) -> bytes:
    """All of a file that lies somewhere under `folder`; while that is not there, nothing can be said of the file.

    Raises:
        BadRecord: the file is not there, may not be read, or is none (a pipe or a device).
        Unreachable: its storage does not answer.
    """
    try:
        if not is_remote(address) and not stat.S_ISREG(os.stat(address).st_mode):
            raise BadRecord(f"{address} is not a file")
        if not is_remote(address):
            return Path(address).read_bytes()
        filesystem, path = filesystem_of(address)
        content: bytes = filesystem.cat_file(path)
        return content
    except BadRecord:
        raise
    except UserError as error:
        raise BadRecord(str(error)) from error
    except Exception as error:  # Each storage has errors of its own.
        raise _failed(address, folder, error) from error


def _failed(address: str, folder: str, error: Exception) -> BadRecord:
    """What the error says of the file, or of its storage: without its folder nothing can be said of a file."""
    problem = f"{address} cannot be read ({reason(error)})"
    is_there = is_remote(folder) or os.path.isdir(folder or ".")
    return Unreachable(problem) if _passes(error) or not is_there else BadRecord(problem)


def _passes(error: BaseException) -> bool:
    """Whether it may be otherwise soon. fsspec says that a file is not there whatever a web server says of it."""
    if isinstance(error, UserError):
        return False
    cause = error.__cause__ or error
    status = _status(cause)
    if status is not None:
        return status in PASSING_STATUS or status >= 500
    return not isinstance(cause, FINAL)


def _status(error: BaseException) -> int | None:
    """What a server answered, where the error says it as aiohttp does (for https:// and gs://) or as botocore."""
    found = getattr(error, "status", None)
    response = getattr(error, "response", None)
    if found is None and isinstance(response, Mapping):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return found if isinstance(found, int) else None


def joined(folder: str, name: str) -> str:
    """Where a file lies that is named in a file of `folder`."""
    if is_remote(name) or posixpath.isabs(name) or name.startswith(HERE):
        return name if is_remote(name) else local_path(name)
    # On the web a name is not yet an address: % and # are letters of it.
    return posixpath.join(folder, urllib.parse.quote(name) if folder.startswith(WEB) else name)


def folder_of(address: str) -> str:
    """Where a file lies, without what is asked of a web server beside it."""
    return posixpath.dirname(address.partition("?")[0] if address.startswith(WEB) else address)


def is_inside(address: str, folder: str) -> bool:
    """Whether a file lies in a folder, or in one of its folders, wherever its links lead."""
    if is_remote(folder):
        return address.startswith(f"{folder}/") and ".." not in address.split("/")
    return not is_remote(address) and Path(address).resolve().is_relative_to(Path(folder).resolve())


def is_remote(address: str) -> bool:
    """Whether it is an address of elsewhere, and not a path of this machine."""
    return "://" in address and not address.startswith(HERE)


def local_path(address: str) -> str:
    """A path of this machine in full, so that it means one file wherever it is read; other addresses as they are."""
    if is_remote(address):
        return address
    for prefix in HERE:
        address = address.removeprefix(prefix)
    return os.path.abspath(os.path.expanduser(address))


def open_file(file: File) -> Any:
    """The file, opened for reading; of one that lies elsewhere parts of `READ_AHEAD_BYTES` are fetched."""
    filesystem, path = filesystem_of(file.address)
    if not is_remote(file.address):
        return filesystem.open(path, "rb")
    ahead = {"cache_type": "readahead", "block_size": READ_AHEAD_BYTES}
    return filesystem.open(path, "rb", size=file.num_bytes, **ahead)


@functools.lru_cache(maxsize=2**16)
def filesystem_of(address: str) -> tuple[Any, str]:
    """The fsspec filesystem of an address, and the path in it.

    Raises:
        UserError: its library is not installed, or no storage is called that.
    """
    if not is_remote(address):
        # Whatever letters it has: fsspec would take some for more than a path.
        return fsspec.filesystem("file"), address
    options: dict[str, Any] = {}
    if address.startswith(WEB):
        options["client_kwargs"] = {"timeout": _patience()}
    try:
        return fsspec.core.url_to_fs(address, **options)
    except ImportError as error:
        raise UserError(f"{address}: {error}; pip install -r requirements-remote.txt") from error
    except ValueError as error:
        raise UserError(f"{address}: {error}; write a path, or an address such as https://, s3:// or gs://") from error


def _patience() -> Any:
    try:
        import aiohttp  # Here, because data of this machine does without it.
    except ImportError:
        return None
    return aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECS, sock_read=SILENT_SECS)


def reason(error: Exception) -> str:
    """What a storage's error says, on one line."""
    cause = error.__cause__ or error
    return " ".join(str(getattr(cause, "strerror", None) or cause).split()) or type(cause).__name__
