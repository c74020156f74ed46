"""Muon for parameters that hold several matrices: stacked layers."""

import math
import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmjax.errors import UserError
from mmjax.optim import paths
from mmjax.types import Array

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of one Newton-Schulz step (Jordan 2024)."""


@dataclass(frozen=True)
class Matrix:
    """Parameters that are matrices: their last `num_in + 1` axes; axes before them are separate matrices.

    Counting from the end makes one entry right for a single layer and for a stack with a leading `l` axis.
    """

    pattern: str
    num_in: int = 1


@dataclass(frozen=True)
class MuonConfig:
    """Momentum made orthogonal by Newton-Schulz steps, for hidden matrices; all other parameters go to Adam.

    `update_rms` is the root mean square that updates of any shape are scaled to, so that the learning rate and weight
    decay of AdamW can be kept: 0.2 is what AdamW's updates have (Liu et al. 2025, Muon is Scalable, section 2.2).
    Embeddings, stems, projections and vectors are left to Adam, as Jordan 2024 advises.
    """

    momentum: float = 0.95
    newton_schulz_steps: int = 5
    update_rms: float = 0.2
    matrices: tuple[Matrix, ...] = (
        Matrix(r".*/attention/(query|key|value|out)/kernel"),
        Matrix(r".*/mlp/(up|down)/kernel"),
    )


def muon(
    config: MuonConfig, adam: optax.GradientTransformation, eps: float, momentum_dtype: str
) -> optax.GradientTransformation:
    """The direction of Muon for the matrices of `config`, and of `adam` for everything else.

    Source: Jordan 2024 (Muon); shape scaling by Liu et al. 2025, eq. 4.

    Raises:
        UserError: no parameter is one of the matrices (when the state is initialised).
    """

    def matrices(tree: Any) -> Any:
        return paths.map_leaves(lambda path, leaf: dimension_numbers(config, path, leaf.ndim), tree)

    def labels(tree: Any) -> Any:
        chosen = paths.map_leaves(
            lambda path, leaf: "adam" if dimension_numbers(config, path, leaf.ndim) is None else "muon", tree
        )
        if "muon" not in jax.tree.leaves(chosen):
            raise UserError("optim.muon.matrices match no parameter: correct them, or set optim.optimizer = 'adamw'")
        return chosen

    momentum = optax.contrib.scale_by_muon(
        # Given for each step, they are scanned over. With one triple for all optax writes out every step of every
        # matrix: 7 of the 54 seconds in which the step of the small ViLBERT compiled.
        ns_coeffs=(QUINTIC,) * config.newton_schulz_steps,
        ns_steps=config.newton_schulz_steps,
        beta=config.momentum,
        eps=eps,
        mu_dtype=momentum_dtype,
        weight_dimension_numbers=matrices,
    )
    return optax.partition({"muon": optax.chain(_any_sharding(momentum), _to_rms(config)), "adam": adam}, labels)


def dimension_numbers(config: MuonConfig, path: str, ndim: int) -> optax.contrib.MuonDimensionNumbers | None:
    """Which axes of the parameter at `path` are inputs and outputs of a matrix; None where it is no matrix."""
    for matrix in config.matrices:
        if re.fullmatch(matrix.pattern, path):
            inputs = tuple(range(ndim - 1 - matrix.num_in, ndim - 1))
            return optax.contrib.MuonDimensionNumbers(inputs, (ndim - 1,))
    return None


def _to_rms(config: MuonConfig) -> optax.GradientTransformation:
    """Scales an orthogonal update, whose root mean square is 1 / sqrt(max(in, out)), to `config.update_rms`."""

    def scale(path: str, update: Array) -> Array:
        axes = dimension_numbers(config, path, update.ndim)
        assert axes is not None, f"{path} was given to Muon but is no matrix"
        sides = (math.prod(update.shape[axis] for axis in side) for side in axes)
        return config.update_rms * math.sqrt(max(sides)) * update

    return optax.stateless(lambda updates, _: paths.map_leaves(scale, updates))


def _any_sharding(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """`transformation` with the compiler choosing the shardings inside, and the given ones kept outside.

    Newton-Schulz multiplies a matrix by its transpose, where explicit sharding would want every product spelled out.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if jax.sharding.get_abstract_mesh().empty:
            return transformation.update(updates, state, params)
        out_sharding = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding, (updates, state))
        return jax.sharding.auto_axes(transformation.update, out_sharding=out_sharding)(updates, state)

    def init(params: Any) -> Any:
        # A constant is born with the spec P(), and would come back from `update` as the equal but other P(None):
        # the step would be compiled twice.
        return jax.tree.map(lambda leaf: leaf + jnp.zeros_like(leaf), transformation.init(params))

    return optax.GradientTransformation(init, update)
