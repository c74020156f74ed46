"""Parameter paths: the leaves of a nested dict named `image/blocks/attention/query/kernel`."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import jax

from mmjax.types import Params


def join(key_path: tuple[Any, ...]) -> str:
    """The path of a leaf, as `jax.tree_util` names it, with its keys joined by "/"."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def leaves(params: Params) -> dict[str, Any]:
    """Every leaf of `params` under its path, in the order in which JAX visits them."""
    return {join(key_path): leaf for key_path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def map_leaves(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`tree` with `function(path, leaf, *leaves of rest)` in the place of each leaf."""
    return jax.tree_util.tree_map_with_path(lambda key_path, *args: function(join(key_path), *args), tree, *rest)


def nearest(pattern: str, paths: Iterable[str], count: int = 3) -> list[str]:
    """The `count` paths most like `pattern`, best first.

    A pattern covers whole paths but is often written after the end of one, so that `kernal` should find
    `image/head/kernel`: each path is scored by its best ending.
    """
    letters = pattern.replace(".*", "").replace("\\", "").strip("/()^$")
    return sorted(paths, key=lambda path: -_likeness(letters, path))[:count]


def _likeness(letters: str, path: str) -> float:
    parts = path.split("/")
    endings = ("/".join(parts[start:]) for start in range(len(parts)))
    return max(difflib.SequenceMatcher(None, letters, ending).ratio() for ending in endings)
