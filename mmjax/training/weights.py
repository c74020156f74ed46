"""The parameters of a checkpoint on one host, whatever mesh wrote it, one array at a time."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mmjax.errors import UserError
from mmjax.training.checksums import describe
from mmjax.training.integrity import Damaged, reading_errors
from mmjax.types import Array


class SavedWeights(Mapping[str, np.ndarray]):
    """Arrays by parameter path; each is read, and compared with its checksum, when it is asked for.

    Raises (when an array is read):
        UserError: it is not what was saved.
    """

    def __init__(self, folder: Path, tree: str, arrays: Mapping[str, Mapping[str, Any]]):
        """Those under `tree` ("params", "ema") of the state that lies in `folder`; `arrays` is what its record says."""
        self._folder, self._tree = folder, tree
        prefix = f"{tree}/"
        self._arrays = {path.removeprefix(prefix): about for path, about in arrays.items() if path.startswith(prefix)}
        self._reader = ocp.PyTreeCheckpointer()
        self.is_average = tree == "ema"

    def __getitem__(self, path: str) -> np.ndarray:
        about = self._arrays[path]
        try:
            with reading_errors():
                array = self._read(path)
            if describe({"array": array})["array"] != dict(about):
                raise Damaged(f"the checksum of {path} is wrong")
        except Damaged as damage:
            raise UserError(f"checkpoint {self._folder} is damaged ({damage}): choose another --step") from damage
        # A view: on CPU the array lies in this process's memory.
        return np.asarray(array)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By path; nothing is read."""
        return {path: tuple(about["shape"]) for path, about in self._arrays.items()}

    def _read(self, path: str) -> Array:
        keys = (self._tree, *path.split("/"))
        whole = ocp.ArrayRestoreArgs(sharding=jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0]))
        wanted = ocp.args.PyTreeRestore(_nested(keys, 0), restore_args=_nested(keys, whole), partial_restore=True)
        leaf: Any = self._reader.restore(self._folder, args=wanted)
        for key in keys:
            leaf = leaf[key]
        return leaf


def _nested(keys: tuple[str, ...], leaf: Any) -> Any:
    for key in reversed(keys):
        leaf = {key: leaf}
    return leaf
