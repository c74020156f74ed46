"""How every `python -m mmjax.X` reads its arguments and ends: flags in, one line and a status out."""

import contextlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from mmjax.errors import UserError

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 128 + signal.SIGINT


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Calls `main` with the arguments of the process and exits with its status."""
    sys.exit(status(main, sys.argv[1:]))


def status(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """0 when `main(arguments)` returns, 2 after a `UserError`, 130 after Ctrl-C; a bug keeps its traceback."""
    try:
        main(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_STATUS
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED_STATUS
    return 0


def parse_flags(program: str, arguments: Sequence[str], strings: Mapping[str, str]) -> dict[str, Any]:
    """The values of `--config` (with its `--config.a.b=value` overrides) and of the string flags named in `strings`.

    Raises:
        UserError: an unknown flag or config key (with the nearest names), a value of the wrong type, a config file that
            cannot be loaded, or a flag that is not given and has no default.
    """
    argv = [f"python -m {program}", *arguments]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", help_string="config file", flag_values=values, sys_argv=argv)
    for name, help_text in strings.items():
        flags.DEFINE_string(name, None, help_text, flag_values=values)
    flags.DEFINE_boolean("help", False, "show this help", short_name="h", flag_values=values)
    with _one_line_errors(program):
        rest = values(argv)
        if values.help:
            _show_help(program, strings)
        config = values.config
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: flags are written --name=value; see python -m {program} --help")
    return {"config": config, **{name: getattr(values, name) for name in strings}}


def require(values: Mapping[str, Any], name: str, program: str) -> Any:
    """The value of a flag that must be given.

    Raises:
        UserError: it was not.
    """
    if values[name] is None:
        raise UserError(f"--{name} is missing: see python -m {program} --help")
    return values[name]


@contextlib.contextmanager
def _one_line_errors(program: str):  # noqa: ANN202
    """What absl and ml_collections raise while they parse, as one line each."""
    try:
        yield
    except flags.Error as error:
        raise UserError(f"{_joined(error)}: see python -m {program} --help") from error
    except (AttributeError, KeyError) as error:
        raise UserError(f"unknown config key {_joined(error)}: correct the --config override") from error
    except IndexError as error:
        raise UserError(f"a --config override has an index out of range: {_joined(error)}") from error
    except (OSError, ImportError, SyntaxError) as error:
        raise UserError(f"the config cannot be loaded: {_joined(error)}: give an existing configs/NAME.py") from error


def _joined(error: BaseException) -> str:
    """The message of an exception on one line."""
    text = str(error.args[0]) if error.args else str(error)
    return " ".join(text.replace('"', "'").split())


def _show_help(program: str, strings: Mapping[str, str]) -> None:
    lines = [f"usage: python -m {program} --config=FILE [--config.a.b=value ...] [--name=value ...]", ""]
    lines += [f"  --{name:<10} {text}" for name, text in strings.items()]
    print("\n".join(lines))
    sys.exit(0)
