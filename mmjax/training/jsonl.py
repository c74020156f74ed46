"""A JSON-lines file with one line a step, in which every step stands exactly once whatever was killed and resumed."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from mmjax.errors import UserError


class StepLines:
    """Appends lines `{"step": 7, ...}` in the order of their steps.

    A run that is resumed from step k repeats the steps after it. What an earlier, killed run wrote of them is dropped
    when the file is opened, and so is a last line that was half written. Writing a step again replaces it, and with it
    whatever came later.
    """

    def __init__(self, path: Path, start_step: int):
        """Opens `path`, keeping the lines up to and including `start_step`.

        Raises:
            UserError: a line before the last is not JSON.
        """
        self._path = path
        self._last_step = start_step
        self._file = _reopen(path, start_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line; numbers that are not finite become null, which JSON has a word for."""
        if step <= self._last_step:
            self._file.close()
            self._file = _reopen(self._path, step - 1)
        self._file.write(json.dumps({"step": step, **finite(values)}, allow_nan=False) + "\n")
        self._last_step = step

    def close(self) -> None:
        self._file.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of `path` as dicts, nothing where it does not exist; a half-written last line is left out.

    Raises:
        UserError: a line before the last is not JSON.
    """
    if not path.exists():
        return
    broken = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if broken:
                raise UserError(f"{path}, line {broken} is not JSON: delete that line and start again")
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                broken = number
                continue
            yield values


def finite(value: Any) -> Any:
    """`value` with Python numbers in place of array scalars, and None in place of NaN and infinities."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, bool | int | str | None):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested dicts, by their keys joined with `/`."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from flatten(inner, f"{name}/{key}" if name else key)


def _reopen(path: Path, last_step: int) -> TextIO:
    """`path` cut down to the steps up to `last_step`, open for appending whole lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _keep_until(path, last_step)
    return path.open("a", buffering=1, encoding="utf-8")


def _keep_until(path: Path, last_step: int) -> None:
    """Rewrites `path` beside itself and moves it in place, so that a kill in between loses nothing."""
    shortened = path.with_name(path.name + ".shortened")
    with shortened.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= last_step)
        file.flush()
        os.fsync(file.fileno())
    shortened.replace(path)
