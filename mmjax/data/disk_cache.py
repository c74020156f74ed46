"""Parts of files that lie elsewhere, kept on this machine up to a bound.

`MMJAX_CACHE` names its folder and `MMJAX_CACHE_BYTES` its bound (100GB): they say something of the machine, and nothing
of the run. Processes of one machine share it; what was stored first goes first.
"""

import functools
import os
import re
import sqlite3
import warnings
from typing import Any

from mmjax.data.optional import imported
from mmjax.errors import UserError

FOLDER, BOUND = "MMJAX_CACHE", "MMJAX_CACHE_BYTES"
DEFAULT_BOUND = "100GB"
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def disk_cache() -> Any | None:
    """The `diskcache.Cache` that the environment asks for; None where it asks for none.

    Raises:
        UserError: it cannot be opened, or its bound is no number of bytes.
    """
    folder = os.environ.get(FOLDER, "")
    return _opened(folder, os.environ.get(BOUND, DEFAULT_BOUND)) if folder else None


@functools.cache
def _opened(folder: str, bound: str) -> Any:
    (diskcache,) = imported(FOLDER, "requirements-remote.txt", "diskcache")
    try:
        return diskcache.Cache(folder, size_limit=num_bytes(bound))
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{FOLDER}={folder} cannot be opened ({error}): name a folder that may be written") from error


def kept(cache: Any, key: tuple[Any, ...]) -> bytes | None:
    """What the cache has, None where it has nothing or cannot be read: a run does without it, and says so once."""
    try:
        found: bytes | None = cache.get(key)
    except Exception as error:  # Of the disk, of its database, of a lock.
        _warn(error)
        return None
    return found


def keep(cache: Any, key: tuple[Any, ...], content: bytes) -> None:
    """Stores it where the cache can be written."""
    try:
        cache.set(key, content)
    except Exception as error:  # Of the disk, of its database, of a lock.
        _warn(error)


@functools.cache
def _warn_once(problem: str) -> None:
    warnings.warn(f"{FOLDER} is not used ({problem}): make room there, or name another folder", stacklevel=4)


def _warn(error: Exception) -> None:
    _warn_once(f"{type(error).__name__}: {error}")


def num_bytes(text: str) -> int:
    """The bytes of "200GB", "1.5TB" or "1000000".

    Raises:
        UserError: it is no such number.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if found is None:
        raise UserError(f"{BOUND}={text} is no number of bytes: write 200GB or 1.5TB")
    return int(float(found[1]) * UNITS[found[2]])
