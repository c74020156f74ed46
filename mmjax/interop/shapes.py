"""The parameters of a model or of one tower, by path, without computing anything."""

from typing import Any

import jax
from flax import nnx

from mmjax.interop.layouts import Shape
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.models.text import TextConfig, TextTransformer
from mmjax.optim import paths
from mmjax.types import Key


def parameter_shapes(model: Any, part: str) -> dict[str, Shape]:
    """The shapes of the parameters of a dual encoder's config, or of a tower's; paths begin with the tower's name."""
    tree = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: built(model, jax.random.key(0))))[1])
    leaves = paths.leaves(tree if part == "both" else {part: tree})
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}


def built(model: Any, key: Key) -> nnx.Module:
    if isinstance(model, DualEncoderConfig):
        return DualEncoder(model, key)
    return TextTransformer(model, key) if isinstance(model, TextConfig) else model.build(key)
