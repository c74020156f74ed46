"""Config files: plain Python with a function `get_config()`, and the keys of their overrides."""

import contextlib
import dataclasses
import importlib.util
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections

from mmjax.config import suggestion
from mmjax.errors import UserError

OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")
"""How the command line names a key, as `ml_collections.config_flags` reads it; `no` unsets a boolean."""


def load_config(path: str) -> ml_collections.ConfigDict:
    """What `get_config()` of the file `path` returns, or `get_config("argument")` of `path:argument`.

    Raises:
        UserError: there is no such file, it has no `get_config`, or it fails; the line at fault is named.
    """
    name, *argument = path.split(":", 1)
    file = Path(name)
    if not file.is_file():
        known = sorted(other.name for other in file.parent.glob("*.py")) or ["configs/NAME.py"]
        raise UserError(f"config file {file} does not exist: {suggestion(file.name, known)}")
    with _faults_of(file):
        module = _module(file)
        if not hasattr(module, "get_config"):
            raise UserError(f"config file {file} has no function get_config: write one that returns the config")
        return module.get_config(*argument)


def check_keys(config: ml_collections.ConfigDict, arguments: Sequence[str]) -> None:
    """Refuses an override of a key that `config` does not have, or of a whole list, which has no form in a flag.

    Raises:
        UserError: with the whole key, and the nearest of those beside it, or the first in it.
    """
    for argument in arguments:
        match = OVERRIDE.match(argument)
        if match is not None:
            _check_key(config, match[1])


def _check_key(config: ml_collections.ConfigDict, key: str) -> None:
    node: Any = config
    for name in key.replace("[", ".[").split("."):
        known = _names_in(node)
        if name not in known:
            remedy = suggestion(name, known) if known else f"what stands before {name!r} has no parts"
            raise UserError(f"unknown key config.{key}: {remedy}")
        node = known[name]
    if isinstance(node, list):
        raise UserError(
            f"config.{key} is a list, which a flag does not replace: override what is in it, "
            f"config.{key}[0].KEY=VALUE, or change the config file"
        )


def _names_in(node: Any) -> dict[str, Any]:
    """What may follow in a key, as it is written: the keys of a section, the places of a sequence."""
    if isinstance(node, Mapping | ml_collections.ConfigDict):
        return dict(node.items())
    return {f"[{place}]": item for place, item in enumerate(node)} if isinstance(node, list | tuple) else {}


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"config file {file} is not Python: give a file configs/NAME.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _faults_of(file: Path) -> Iterator[None]:
    """Whatever a config file raises, as one line that names the place: a traceback through our code would hide it."""
    try:
        yield
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}: correct the config file") from error
    except Exception as error:
        lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if _is_in(file, frame)]
        place = f"{file}, line {lines[-1]}" if lines else str(file)
        raise UserError(f"{place}: {_explained(error)}: correct the config file") from error


def _is_in(file: Path, frame: Any) -> bool:
    return Path(frame.f_code.co_filename) == file.absolute()


def _explained(error: Exception) -> str:
    """The message of `error`, with the nearest names for a field that a config class does not have."""
    found = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if found is None:
        return f"{type(error).__name__}: {error}"
    scopes = [frame.f_globals for frame, _ in traceback.walk_tb(error.__traceback__)]
    cls = next((scope[found[1]] for scope in scopes if dataclasses.is_dataclass(scope.get(found[1]))), None)
    known = [field.name for field in dataclasses.fields(cls)] if cls else []
    return f"{found[1]} has no field {found[2]!r}" + (f", {suggestion(found[2], known)}" if known else "")
