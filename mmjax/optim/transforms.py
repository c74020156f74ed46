"""What happens to an update after the optimizer has chosen its direction: decay, rates by path, clamps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from mmjax.optim import paths
from mmjax.optim.rules import matching
from mmjax.types import Array, Params


@dataclass(frozen=True)
class Clamp:
    """Keeps the parameters whose whole path matches `pattern` between `low` and `high`."""

    pattern: str
    low: float
    high: float


def add_decay(rates: Mapping[str, float]) -> optax.GradientTransformation:
    """Decoupled weight decay: adds `rates[path] * parameter` to each update.

    Source: Loshchilov and Hutter 2019, algorithm 2, line 12, with the rate inside the learning rate.
    """

    def decay(path: str, update: Array, param: Array) -> Array:
        return update + rates[path] * param if rates[path] else update

    return optax.stateless(lambda updates, params: paths.map_leaves(decay, updates, params))


def scale_by_path(scales: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies each update by `scales[path]`."""
    return optax.stateless(lambda updates, _: paths.map_leaves(lambda path, update: scales[path] * update, updates))


def clamp(clamps: Sequence[Clamp], params: Params) -> optax.GradientTransformation:
    """Shortens updates so that clamped parameters stay in their range: a projection after the step.

    CLIP keeps the logit scale at most 100 this way (Radford et al. 2021, section 2.5). It must come last in a chain.

    Raises:
        UserError: a clamp whose pattern matches no parameter.
    """
    names = list(paths.leaves(params))
    bounds = {name: item for item in clamps for name in matching(item.pattern, names, "optim.clamps")}

    def project(path: str, update: Array, param: Any) -> Array:
        if path not in bounds:
            return update
        return jnp.clip(param + update, bounds[path].low, bounds[path].high) - param

    return optax.stateless(lambda updates, params: paths.map_leaves(project, updates, params))
