"""Several evaluations of one split, whose towers run once, and their results as scripts read them."""

from collections.abc import Mapping
from typing import Any, Protocol

from mmjax.evals.seen import Seen


class Eval(Protocol):
    """An evaluation; the docstring of each says what its numbers mean, and what they do not."""

    def score(self, seen: Seen) -> dict[str, float]: ...


def run_suite(evals: Mapping[str, Eval], seen: Seen) -> dict[str, dict[str, float]]:
    """The result of each evaluation under its name; images and captions pass through the towers only once."""
    return {name: evaluation.score(seen) for name, evaluation in evals.items()}


def as_json(results: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Results as nested dicts, split at `/`; counts become whole numbers.

    {"retrieval": {"image_to_text/r@1": 0.41}} is {"retrieval": {"image_to_text": {"r@1": 0.41}}}.
    """
    nested: dict[str, Any] = {}
    for name, values in results.items():
        for key, value in values.items():
            *parents, leaf = f"{name}/{key}".split("/")
            level = nested
            for parent in parents:
                level = level.setdefault(parent, {})
            level[leaf] = int(value) if leaf.startswith("num_") else value
    return nested
