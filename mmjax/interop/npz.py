"""Arrays in `.npz` files, as NumPy and JAX programs save them."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import ml_dtypes
import numpy as np

from mmjax.errors import UserError
from mmjax.interop.layouts import Shape


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of a file by name; each is read when it is asked for, as float32.

    Where any name begins with `root`, only those that do are meant, and lose it; then they are renamed. Close it, or
    use it in a `with` statement.

    Raises:
        UserError: it is no such file.
    """

    def __init__(self, path: Path, root: str = "", renamed: Callable[[str], str] = str):
        self.path = path
        self._stack = ExitStack()
        try:
            stream = self._stack.enter_context(path.open("rb"))
            self._file = np.load(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            self._stack.close()
            raise UserError(f"{path} cannot be read ({error}): give an .npz file") from error
        if not isinstance(self._file, np.lib.npyio.NpzFile):
            self._stack.close()
            raise UserError(f"{path} holds a single array: give an .npz file")
        self._stack.enter_context(self._file)
        names = self._file.files
        root = root if any(name.startswith(root) for name in names) else ""
        self._names = {renamed(name.removeprefix(root)): name for name in names if name.startswith(root)}

    def shape(self, name: str) -> Shape:
        """Of one array, of which only the header is read.

        Raises:
            UserError: there is none of that name.
        """
        if name not in self:
            raise UserError(f"{self.path} has no array {name}: it holds another kind of model")
        with self._file.zip.open(f"{self._names[name]}.npy") as header:
            version = np.lib.format.read_magic(header)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return read(header)[0]

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._file[self._names[name]]
        if array.dtype.kind == "V":  # NumPy has no bfloat16, and calls it two bytes.
            array = array.view(ml_dtypes.bfloat16)
        return array.astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __enter__(self) -> "Arrays":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
