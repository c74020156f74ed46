"""The parameters of a model or of one tower, by path, without computing anything."""

from typing import Any

import jax
from flax import nnx

from mmjax.interop.layouts import Shape
from mmjax.optim import paths


def parameter_shapes(model: Any, part: str) -> dict[str, Shape]:
    """The shapes of the parameters of a model's config, or of a tower's, whose paths begin with its name."""
    tree = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: model.build(jax.random.key(0))))[1])
    leaves = paths.leaves(tree if part == "both" else {part: tree})
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}
