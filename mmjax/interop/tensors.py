"""Safetensors files of a folder: read one tensor at a time, written in files of a bounded size with their index."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mmjax.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_FILE_BYTES = 5 * 10**9
"""Of one file of weights, as `transformers` splits them."""
READABLE = 0o644

DTYPES: dict[str, Any] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
OLD_NAMES = ((re.compile(r"(.*LayerNorm)\.gamma"), r"\1.weight"), (re.compile(r"(.*LayerNorm)\.beta"), r"\1.bias"))
"""Names of norms in checkpoints that were converted from TensorFlow, as `transformers` still reads them."""


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a folder, or of one file, by name; each is read when it is asked for, as float32.

    Names lose `prefix` where they have it. Close it, or use it in a `with` statement.

    Raises:
        UserError: there are no such files, or one is broken.
    """

    def __init__(self, path: Path, prefix: str = ""):
        self.path = path
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        for file in weight_files(path):
            self._open(file, prefix)

    def _open(self, file: Path, prefix: str) -> None:
        try:
            opened = self._stack.enter_context(safe_open(file, framework="numpy"))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} cannot be read ({error}): restore it from where it came") from error
        for theirs in opened.keys():  # noqa: SIM118, as it is no mapping.
            name = _present_name(theirs, prefix)
            if name in self._names:
                raise UserError(f"{file}: tensor {name} is there twice: keep one of the files that hold it")
            self._files[name], self._names[name] = opened, theirs

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._files[name].get_tensor(self._names[name])
        return tensor.astype(np.float32) if tensor.dtype.kind in "fV" else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __enter__(self) -> "Tensors":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder, those that its index names where it has one; or `path` itself.

    Raises:
        UserError: there are none, or one that the index names is not there.
    """
    if path.is_file():
        return [path]
    files = [path / SINGLE]
    if (path / INDEX).exists():
        files = [path / name for name in sorted(set(json.loads((path / INDEX).read_text())["weight_map"].values()))]
    missing = [file for file in files if not file.exists()]
    if missing:
        pickled = list(path.glob("*.bin")) + list(path.glob("*.pt")) + list(path.glob("*.h5"))
        remedy = "save it again as safetensors" if pickled else "give a folder that holds weights"
        raise UserError(f"{missing[0]} does not exist: {remedy}")
    return files


def write_tensors(
    folder: Path, tensors: Iterable[tuple[str, np.ndarray]], dtype: str, max_file_bytes: int = MAX_FILE_BYTES
) -> None:
    """Writes `tensors`, floats as `dtype`: one file, or several of at most `max_file_bytes` with their index.

    No more is held in memory than one file and the tensor that `tensors` is at.
    """
    written: list[list[str]] = []
    held: dict[str, np.ndarray] = {}
    total_bytes = 0
    for name, tensor in tensors:
        ready = np.ascontiguousarray(_cast(tensor, dtype))
        if held and _num_bytes(held) + ready.nbytes > max_file_bytes:
            written.append(_flush(folder, held, len(written)))
        held[name] = ready.reshape(tensor.shape)
        total_bytes += ready.nbytes
        # The next one is read before these names are given away, and a layer would keep its whole stack.
        del tensor, ready
    written.append(_flush(folder, held, len(written)))
    _name_files(folder, written, total_bytes)


def _cast(tensor: np.ndarray, dtype: str) -> np.ndarray:
    return tensor.astype(DTYPES[dtype]) if tensor.dtype.kind == "f" else tensor


def _num_bytes(tensors: Mapping[str, np.ndarray]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _flush(folder: Path, held: dict[str, np.ndarray], number: int) -> list[str]:
    """Writes what is held under a provisional name and lets go of it; the names of its tensors."""
    file = _provisional(folder, number)
    save_file(held, file, metadata={"format": "pt"})
    # The library lets nobody else read it.
    file.chmod(READABLE)
    names = list(held)
    held.clear()
    return names


def _provisional(folder: Path, number: int) -> Path:
    return folder / f"{SINGLE}.part{number}"


def _name_files(folder: Path, written: list[list[str]], total_bytes: int) -> None:
    """Gives the files their names, which say how many there are, and writes the index of several."""
    if len(written) == 1:
        _provisional(folder, 0).replace(folder / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(written):
        file = f"model-{number + 1:05}-of-{len(written):05}.safetensors"
        _provisional(folder, number).replace(folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _present_name(name: str, prefix: str) -> str:
    name = name.removeprefix(prefix)
    for pattern, replacement in OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name
