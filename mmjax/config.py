"""Experiment configs: frozen dataclasses to and from plain dicts and ml_collections.

A config is written once, as frozen dataclasses that stand beside the code they configure. `to_config_dict` opens it for
overrides on the command line; `from_dict` closes it again, checks every name and type, and says in one line what is
wrong. Where a field is declared with a base class, the dict names the class that was used: there is no registry.
"""

import dataclasses
import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import ml_collections

from mmjax.errors import UserError

T = TypeVar("T")
CLASS_KEY = "class"


def to_dict(config: Any, declared: type | None = None) -> dict[str, Any]:
    """The plain, JSON-ready dict of a dataclass config; `declared` is the class its field was annotated with."""
    hints = typing.get_type_hints(type(config))
    values = {f.name: _to_plain(getattr(config, f.name), hints[f.name]) for f in dataclasses.fields(config)}
    if declared is not None and declared is not type(config):
        values[CLASS_KEY] = f"{type(config).__module__}:{type(config).__qualname__}"
    return values


def to_config_dict(config: Any) -> ml_collections.ConfigDict:
    """The same as `to_dict`, as the ConfigDict that `get_config()` returns; absent values become typed placeholders."""
    return ml_collections.ConfigDict(_with_placeholders(to_dict(config), type(config)))


def from_dict(cls: type[T], values: Mapping[str, Any], path: str = "config") -> T:
    """The dataclass `cls` built from `values`, checked.

    Raises:
        UserError: an unknown key (with the nearest names), a missing key, or a value of the wrong type.
    """
    values = dict(values)
    cls = _load_class(values.pop(CLASS_KEY), path) if CLASS_KEY in values else cls
    if inspect.isabstract(cls):
        raise UserError(f"{path}.{CLASS_KEY} is missing: name the config class that is meant as module:Class")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise UserError(f"unknown key {path}.{key}: {suggestion(key, hints)}")
    arguments = {key: _from_plain(value, hints[key], f"{path}.{key}") for key, value in values.items()}
    _refuse_missing(cls, arguments, path)
    return cls(**arguments)


def flatten(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Leaves of a nested dict by dotted path."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{path}.{key}" if path else key
        leaves |= flatten(value, name) if isinstance(value, Mapping) else {name: value}
    return leaves


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted paths at which two plain dicts differ, with both values (None where one has no such path)."""
    before, after = flatten(old), flatten(new)
    return {path: (before.get(path), after.get(path)) for path in before | after if before.get(path) != after.get(path)}


def suggestion(name: str, known: Iterable[str]) -> str:
    """The remedy for a mistyped name: the nearest known ones, or all of them."""
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(nearest)}?" if nearest else f"use one of {', '.join(known)}"


def _to_plain(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value, _without_none(hint))
    if isinstance(value, tuple):
        return [_to_plain(item, _item_hint(hint, i)) for i, item in enumerate(value)]
    # A whole number in a field of type float would make its override parse as int.
    return float(value) if _without_none(hint) is float and value is not None else value


def _from_plain(value: Any, hint: Any, path: str) -> Any:
    inner = _without_none(hint)
    if value is None and inner is not hint:
        return None
    if isinstance(value, Mapping) and inner is not dict:
        return from_dict(inner, value, path)
    if typing.get_origin(inner) is tuple:
        return _tuple_from(value, inner, path)
    if typing.get_origin(inner) is typing.Literal:
        return _choice_from(value, typing.get_args(inner), path)
    return _leaf_from(value, inner, path)


def _tuple_from(value: Any, hint: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{path} must be a sequence, not {value!r}: write it as (a, b)")
    arguments = typing.get_args(hint)
    if arguments[-1] is not Ellipsis and len(value) != len(arguments):
        raise UserError(f"{path} must have {len(arguments)} values, not {len(value)}: give that many")
    return tuple(_from_plain(item, _item_hint(hint, i), f"{path}[{i}]") for i, item in enumerate(value))


def _choice_from(value: Any, choices: tuple[Any, ...], path: str) -> Any:
    if value not in choices:
        raise UserError(f"{path} = {value!r} is not known: {suggestion(str(value), map(str, choices))}")
    return value


def _leaf_from(value: Any, hint: type, path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        remedy = "change it on the command line or in the config"
        raise UserError(f"{path} must be {hint.__name__}, not {value!r}: {remedy}")
    return value


def _without_none(hint: Any) -> Any:
    """`X` of the annotation `X | None`; any other annotation as it is."""
    if isinstance(hint, types.UnionType):
        (hint,) = (argument for argument in typing.get_args(hint) if argument is not type(None))
    return hint


def _item_hint(hint: Any, index: int) -> Any:
    arguments = typing.get_args(_without_none(hint))
    return arguments[0] if arguments[-1] is Ellipsis else arguments[index]


def _with_placeholders(values: dict[str, Any], cls: type) -> dict[str, Any]:
    """What an override on the command line can be parsed into: None as a placeholder of its type, values as tuples."""
    cls = _load_class(values[CLASS_KEY], "config") if CLASS_KEY in values else cls
    hints = typing.get_type_hints(cls)
    opened = dict(values)
    for key, value in values.items():
        hint = _without_none(hints.get(key, str))
        if value is None:
            opened[key] = ml_collections.config_dict.placeholder(hint if isinstance(hint, type) else object)
        elif isinstance(value, dict):
            opened[key] = _with_placeholders(value, hint)
        elif isinstance(value, list) and not any(isinstance(item, dict) for item in value):
            opened[key] = tuple(value)
    return opened


def _load_class(name: str, path: str) -> type:
    module, _, qualname = name.partition(":")
    try:
        cls = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError) as error:
        problem = f"{path}.{CLASS_KEY} = {name!r} cannot be imported ({error})"
        raise UserError(f"{problem}: write it as module:Class") from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise UserError(f"{path}.{CLASS_KEY} = {name!r} is not a config class: name a dataclass as module:Class")
    return cls


def _refuse_missing(cls: type, arguments: Mapping[str, Any], path: str) -> None:
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in arguments:
            raise UserError(f"{path}.{field.name} is missing: give it in the config")
