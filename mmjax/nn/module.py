"""The base of all layers: an `nnx.Module` whose work is named in compiled programs and profiles."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx


class Module(nnx.Module):
    """What a layer computes bears the path of its parameters: `image/blocks/attention/query`.

    A module is named by the attribute of its parent that it is put into; calling it enters that `jax.named_scope`. So
    a profile, and a plan, say of each operation whose it is, and of its derivative too.
    """

    scope: str = ""

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if "__call__" in vars(cls):
            setattr(cls, "__call__", _named(vars(cls)["__call__"]))  # noqa: B010 - a method is replaced

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        for place, module in _modules(name, value):
            nnx.Module.__setattr__(module, "scope", place)


def _modules(name: str, value: Any) -> list[tuple[str, Module]]:
    """The modules that an attribute holds, itself or in a list, with their names."""
    if isinstance(value, Module):
        return [(name, value)]
    if isinstance(value, list | tuple | nnx.List):
        return [(f"{name}/{place}", item) for place, item in enumerate(value) if isinstance(item, Module)]
    return []


def _named(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def named(self: Module, *args: Any, **options: Any) -> Any:
        if not self.scope:
            return call(self, *args, **options)
        with jax.named_scope(self.scope):
            return call(self, *args, **options)

    return named
