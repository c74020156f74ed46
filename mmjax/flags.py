"""How `python -m mmjax.X` reads its flags, and those of a config."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from mmjax.config_file import check_keys, load_config
from mmjax.errors import UserError


def parse_flags(
    program: str,
    arguments: Sequence[str],
    strings: Mapping[str, str],
    switches: Mapping[str, str] | None = None,
    config: ConfigDict | None = None,
) -> dict[str, Any]:
    """The values of `--config` (with its `--config.a.b=value` overrides), of the string flags named in `strings`, and
    of the `switches`, which are either given or not.

    What is not given is None, or False; without `--config` the overrides are those of `config`.

    Raises:
        UserError: an unknown flag or config key (with the nearest names), a value of the wrong type, or a config file
            that cannot be loaded.
    """
    switches = switches or {}
    path, others = _split_config(arguments, program)
    values, argv = flags.FlagValues(), [f"python -m {program}", *others]
    flags.DEFINE_boolean("help", False, "show this help", short_name="h", flag_values=values)
    for name, help_text in strings.items():
        flags.DEFINE_string(name, None, help_text, flag_values=values)
    for name, help_text in switches.items():
        flags.DEFINE_boolean(name, False, help_text, flag_values=values)
    if path is not None:
        config = load_config(path)
    if config is not None:
        check_keys(config, others)
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    _parse(values, argv, program)
    if values.help:
        _show_help(program, {**strings, **switches})
    given = {name: getattr(values, name) for name in (*strings, *switches)}
    return {"config": None if config is None else values.config, **given}


def require(values: Mapping[str, Any], name: str, program: str) -> Any:
    """The value of a flag that must be given.

    Raises:
        UserError: it was not.
    """
    if values[name] is None:
        raise UserError(f"--{name} is missing: see python -m {program} --help")
    return values[name]


def _split_config(arguments: Sequence[str], program: str) -> tuple[str | None, list[str]]:
    """The path of `--config=PATH` or `--config PATH`, and the other arguments."""
    path, others, rest = None, [], iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name not in ("--config", "-config"):
            others.append(argument)
            continue
        path = value if equals else next(rest, "")
        if not path:
            raise UserError(f"--config has no value: give a config file; see python -m {program} --help")
    return path, others


def _parse(values: flags.FlagValues, argv: Sequence[str], program: str) -> None:
    """Gives `values` the values in `argv`.

    Raises:
        UserError: what absl and ml_collections raise, and what is no flag.
    """
    try:
        rest = values(argv)
    except flags.Error as error:
        raise UserError(f"{error}: see python -m {program} --help") from error
    if len(rest) > 1:
        remedy = f"flags are written --name=value; see python -m {program} --help"
        raise UserError(f"unexpected argument {rest[1]!r}: {remedy}")


def _show_help(program: str, strings: Mapping[str, str]) -> None:
    lines = [f"usage: python -m {program} --config=FILE [--config.a.b=value ...] [--name=value ...]", ""]
    lines += [f"  --{name:<10} {text}" for name, text in strings.items()]
    print("\n".join(lines))
    sys.exit(0)
