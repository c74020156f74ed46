"""Files that are written whole or not at all, so that a killed process leaves no half of one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, beside `path`, which becomes it at the end of the block; not where the block fails."""
    # Behind the name, so that no pattern of finished files, such as *.json, fits it.
    unfinished = path.with_name(f"{path.name}.unfinished")
    yield unfinished
    unfinished.replace(path)
