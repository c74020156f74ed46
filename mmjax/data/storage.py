"""Files on any storage that fsspec knows: paths of this machine, and addresses such as https://, s3:// and gs://."""

import functools
import os
import posixpath
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec
import tenacity
from braceexpand import braceexpand

from mmjax.data.records import BadRecord, Unreachable
from mmjax.errors import UserError

NUM_REQUESTS = 32
"""Requests at a time while many files are looked up: what a store answers is waiting, not work."""
SILENT_SECS = 30.0
"""How long a server may say nothing before it counts as away."""
LOOKUP_SECS = 20.0
"""How long a file that cannot be looked up at the start is asked for again."""
PASSING_STATUS = (408, 425, 429)
"""What a web server says of now, and not of the file; and so does all from 500."""
FINAL = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
"""What a storage says of a file, while it is there itself; any other error may pass."""
WILDCARDS = "*?["
READ_AHEAD_BYTES = 2**23


@dataclass(frozen=True)
class File:
    """One file: `address` as fsspec opens it, and its size in bytes."""

    address: str
    num_bytes: int


def find(pattern: str) -> list[File]:
    """The files of `pattern`, in order: braces (`{000..127}`, `{a,b}`) are filled in, and wildcards looked up.

    Raises:
        UserError: nothing fits, a file is not there, or its storage cannot be asked.
    """
    try:
        addresses = list(braceexpand(pattern))
    except ValueError as error:
        raise UserError(f"{pattern!r}: {error}; write {{000..127}} or {{a,b}}") from error
    with ThreadPoolExecutor(NUM_REQUESTS) as requests:
        files = [file for found in requests.map(_lookup, addresses) for file in found]
    if not files:
        raise UserError(f"no file fits {pattern}: check the pattern")
    return files


def _lookup(address: str) -> list[File]:
    filesystem, path = _open(address)
    with_prefix = filesystem.unstrip_protocol if is_remote(address) else str
    try:
        facts = _attempts()(_facts, filesystem, path)
    except Exception as error:  # Each storage has errors of its own.
        raise UserError(f"{address} cannot be read ({_reason(error)}): check the path, and who may read it") from error
    return [File(with_prefix(fact["name"]), _size_of(fact, address)) for fact in facts]


def _facts(filesystem: Any, path: str) -> list[dict[str, Any]]:
    """What the storage says of the file, or of each that fits."""
    if not any(wildcard in path for wildcard in WILDCARDS):
        return [filesystem.info(path)]
    found = filesystem.glob(path, detail=True)
    return [found[name] for name in sorted(found) if found[name]["type"] == "file"]


def _attempts() -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(_passes),
        stop=tenacity.stop_after_delay(LOOKUP_SECS),
        wait=tenacity.wait_random_exponential(0.2, 5.0),
        reraise=True,
    )


def _passes(error: BaseException) -> bool:
    """Whether it may be otherwise soon. fsspec says that a file is not there whatever a web server says of it."""
    status = getattr(error.__cause__ or error, "status", None)
    if isinstance(status, int):
        return status in PASSING_STATUS or status >= 500
    return not isinstance(error, FINAL)


def _size_of(facts: dict[str, Any], address: str) -> int:
    if facts.get("size") is None:
        raise UserError(f"{address}: its server does not say how long it is: copy it to a store that does")
    return int(facts["size"])


def read(address: str, start: int, num_bytes: int) -> bytes:
    """Bytes [start, start + num_bytes) of a file.

    Raises:
        BadRecord: the file is gone, may not be read, or ends before.
        Unreachable: its storage does not answer, or answers with something else.
    """
    try:
        filesystem, path = _open(address)
        found = filesystem.cat_file(path, start=start, end=start + num_bytes)
    except Exception as error:  # Each storage has errors of its own.
        raise _failed(address, posixpath.dirname(address), error) from error
    if len(found) == num_bytes:
        return found
    if not is_remote(address):
        raise BadRecord(f"{address} ends at {start + len(found)}: it is cut off")
    raise Unreachable(f"{address} was asked for {num_bytes} bytes, and gave {len(found)}")


def read_whole(address: str, folder: str) -> bytes:
    """All of a file that lies somewhere under `folder`; while that is not there, nothing can be said of the file.

    Raises:
        BadRecord: the file is not there, or may not be read.
        Unreachable: its storage does not answer.
    """
    try:
        filesystem, path = _open(address)
        content: bytes = filesystem.cat_file(path)
        return content
    except UserError as error:
        raise BadRecord(str(error)) from error
    except Exception as error:  # Each storage has errors of its own.
        raise _failed(address, folder, error) from error


def _failed(address: str, folder: str, error: Exception) -> BadRecord:
    """What the error says of the file, or of its storage: without its folder nothing can be said of a file."""
    problem = f"{address} cannot be read ({_reason(error)})"
    is_there = is_remote(folder) or os.path.isdir(folder or ".")
    return BadRecord(problem) if isinstance(error, FINAL) and is_there else Unreachable(problem)


def joined(folder: str, name: str) -> str:
    """Where a file lies that is named in a file of `folder`."""
    return name if is_remote(name) else posixpath.join(folder, name)


def is_remote(address: str) -> bool:
    """Whether it is an address of elsewhere, and not a path of this machine."""
    return "://" in address


def open_file(file: File) -> Any:
    """The file, opened for reading; of one that lies elsewhere long parts are read ahead."""
    filesystem, path = _open(file.address)
    if not is_remote(file.address):
        return filesystem.open(path, "rb")
    ahead = {"cache_type": "readahead", "block_size": READ_AHEAD_BYTES}
    return filesystem.open(path, "rb", size=file.num_bytes, **ahead)


@functools.lru_cache(maxsize=2**16)
def _open(address: str) -> tuple[Any, str]:
    options: dict[str, Any] = {}
    if address.startswith(("http://", "https://")):
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


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return " ".join(str(getattr(cause, "strerror", None) or cause).split()) or type(cause).__name__
