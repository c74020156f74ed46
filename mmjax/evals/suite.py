"""Several evaluations of one split, whose towers run once, and their results as scripts read them."""

from collections.abc import Mapping
from typing import Any

from mmjax.evals.embed import Encoders
from mmjax.evals.seen import Eval, Seen
from mmjax.evals.split import EvalSplit
from mmjax.types import Params


def run_suite(
    evals: Mapping[str, Eval], encoders: Encoders, split: EvalSplit, params: Params
) -> dict[str, dict[str, float]]:
    """The result of each evaluation under its name; images and captions pass through the towers only once."""
    seen = Seen(encoders, split, params)
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
