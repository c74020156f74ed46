"""Error messages for mistyped names."""

import difflib
from collections.abc import Iterable

from mmjax.errors import UserError


def unknown_name(what: str, name: str, known: Iterable[str]) -> UserError:
    """Returns the error for a name that is not among the known ones, with the nearest of them."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"choose one of {', '.join(names)}"
    return UserError(f"{what} {name!r} does not exist: {hint}")
