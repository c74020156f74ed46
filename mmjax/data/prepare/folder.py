"""The folder that a preparation writes: of this machine, of one that machines share, or in an object store."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.data import storage
from mmjax.errors import UserError

WORK = "unfinished"
"""The folder in it with what is needed until all is written."""


@dataclass(frozen=True)
class Folder:
    """Files by name, "a/b" in a folder of their own, each there whole or not at all; the same for every process.

    `address` is a path of this machine, or what fsspec opens (s3://bucket/prepared). What it says of the storage is a
    UserError.
    """

    address: str

    @staticmethod
    def at(place: str) -> "Folder":
        return Folder(storage.local_path(place).rstrip("/"))

    def __str__(self) -> str:
        return self.address

    @property
    def is_remote(self) -> bool:
        return storage.is_remote(self.address)

    def names(self) -> set[str]:
        """Of what lies directly in it; of a folder that is not there, none."""
        with self._said():
            filesystem, path = self._opened()
            try:
                found = {name.rstrip("/") for name in filesystem.ls(path, detail=False)}
            except FileNotFoundError:
                return set()
        # A store may have an empty object that stands for the folder itself.
        return {name.rpartition("/")[2] for name in found if name != path.rstrip("/")}

    def exists(self, name: str) -> bool:
        with self._said():
            filesystem, path = self._opened(name)
            return bool(filesystem.exists(path))

    def read(self, name: str) -> bytes:
        with self._said():
            filesystem, path = self._opened(name)
            content: bytes = filesystem.cat_file(path)
        return content

    def write(self, name: str, content: bytes) -> None:
        inside, _, last = name.rpartition("/")
        with self.filled(inside) as made:
            (made / last).write_bytes(content)

    @contextlib.contextmanager
    def filled(self, inside: str = "") -> Iterator[Path]:
        """An empty folder of this machine: what the block leaves in it is moved to this one, in the folder `inside`."""
        # Beside what they become, where a move is a new name and no copy.
        beside = None if self.is_remote else Path(self.address) / WORK
        with tempfile.TemporaryDirectory(prefix="writing-", dir=beside) as made:
            yield Path(made)
            for path in sorted(Path(made).iterdir()):
                self._place(path, f"{inside}/{path.name}" if inside else path.name)

    def claim(self) -> None:
        """Makes it, where folders are made: an object store has none."""
        if not self.is_remote:
            with self._said():
                (Path(self.address) / WORK).mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Removes `WORK`, and nothing that anyone else may have put beside it."""
        with self._said():
            filesystem, path = self._opened(WORK)
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)

    def give_up(self) -> None:
        """As `clear`, and the folder itself where it is left empty and is one of this machine."""
        self.clear()
        if not self.is_remote and not self.names():
            with contextlib.suppress(OSError):  # Whoever stands in it, or owns what is above, keeps an empty folder.
                Path(self.address).rmdir()

    def _place(self, made: Path, name: str) -> None:
        filesystem, path = self._opened(name)
        if not self.is_remote:
            made.replace(path)
            return
        with self._said():
            filesystem.put_file(str(made), path)

    def _opened(self, name: str = "") -> tuple[Any, str]:
        filesystem, path = storage.filesystem_of(self.address)
        # What another machine wrote is not in what this one was told before.
        filesystem.invalidate_cache()
        return filesystem, f"{path}/{name}" if name else path

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # Each storage has errors of its own.
            raise UserError(
                f"{self.address} cannot be used ({storage.reason(error)}): give another --out, or see who may write it"
            ) from error
