"""Whether a checkpoint is what was saved: a signed record, and one kind of error for everything that is wrong."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax

NOT_OF_THE_FILES = (
    "UNAVAILABLE",
    "PERMISSION_DENIED",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "CANCELLED",
    "ABORTED",
)
"""Statuses of the storage library, in its messages, that another try may not meet."""
ARRAYS, SIGNATURE = "arrays", "sha256"
"""Keys of a record: what `checksums.describe` says of the arrays, and the digest of all else."""


class Damaged(Exception):
    """A checkpoint that is not what was saved."""


def sign(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with a digest of its text."""
    return {**record, SIGNATURE: hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()}


def check_signature(record: Mapping[str, Any]) -> None:
    """Raises `Damaged` where a record is not the one that was signed."""
    if sign(unsigned(record)) != record:
        raise Damaged("the digest of its record is wrong")


def unsigned(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without its digest."""
    return {key: value for key, value in record.items() if key != SIGNATURE}


@contextlib.contextmanager
def reading_errors() -> Iterator[None]:
    """What reading broken files raises, as `Damaged`.

    A file system that refuses or is away, and memory that does not suffice, say nothing of the files.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise Damaged(f"{error.filename or error} is missing") from error
    except (OSError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        if any(status in str(error) for status in NOT_OF_THE_FILES):
            raise
        raise Damaged(" ".join(str(error).split())[:200] or type(error).__name__) from error
