"""Where in the model an operation of a compiled program comes from, read from the scopes in its name."""

import re
from typing import Literal, NamedTuple

Pass = Literal["forward", "backward", "recomputed"]
WRAPPERS = re.compile(r"^(transpose|jvp|vmap|jit|pjit)\((.*)\)$")
MACHINERY = re.compile(
    r"while|body|cond|closed_call|checkpoint|rematted_computation|shard_map|remat\d?|custom_[jv][vj]p_call\w*|"
    r"branch_\d+_fun|core_call|named_call"
)
"""Parts of a name that JAX adds."""


class Place(NamedTuple):
    """A path such as `image/blocks/attention/query`, and in which pass it is computed; "" where it has no scope."""

    path: str
    computed_in: Pass


def place_of(op_name: str) -> Place:
    """The place that `jit(f)/transpose(jvp(image))/while/body/blocks/mlp/up/dot_general` names."""
    argument = re.findall(r"\[\\?'(\w+)\\?'\]", op_name)
    if argument:
        return Place("/".join([*re.findall(r"^[\w.]+", op_name), *argument]).replace(".", "/"), "forward")
    parts = _split(op_name)
    computed_in: Pass = "forward"
    if any(part.startswith("transpose(") for part in parts):
        computed_in = "recomputed" if "rematted_computation" in parts else "backward"
    # The last part is the primitive, the first the function that is compiled.
    scopes = [name for part in parts[:-1] for name in _split(_unwrapped(part)) if _is_scope(name)]
    return Place("/".join(scopes), computed_in)


def _unwrapped(part: str) -> str:
    """What stands in `transpose(jvp(image))`; "" for a function's name in `jit(f)`."""
    while found := WRAPPERS.match(part):
        part = "" if found[1] in ("jit", "pjit") else found[2]
    return part


def _is_scope(name: str) -> bool:
    return bool(name) and not MACHINERY.fullmatch(name) and "->" not in name


def _split(name: str) -> list[str]:
    """At the slashes outside of parentheses."""
    parts, depth = [""], 0
    for letter in name:
        depth += (letter == "(") - (letter == ")")
        if letter == "/" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
