"""Fusion models from foreign weights, and what they compute."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmjax.interop.formats import Format
from mmjax.models.fusion.model import Fusion, FusionConfig
from mmjax.nn.bimodal import Streams

Weights = Mapping[str, np.ndarray]


def filled(format: Format, model: FusionConfig, weights: Weights) -> dict[str, np.ndarray]:
    """Our parameters by path."""
    return dict(format.parameters(model, weights))


def round_trip(format: Format, model: FusionConfig, weights: Weights) -> dict[str, np.ndarray]:
    """Foreign weights as ours, and as foreign ones again."""
    return dict(format.tensors(model, filled(format, model, weights)))


class Run:
    """A model with these parameters, called with numpy arrays."""

    def __init__(self, model: FusionConfig, params: Weights):
        graph, state = nnx.split(nnx.eval_shape(lambda: model.build(jax.random.key(0))))
        leaves = {"/".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
        assert leaves.keys() == params.keys()
        flat = {leaves[path]: array for path, array in params.items()}
        self._params = nnx.to_pure_dict(nnx.from_flat_state({k: nnx.Param(v) for k, v in flat.items()}))
        self.module: Fusion = nnx.merge(graph, jax.tree.map(jnp.asarray, self._params))
        self._call = jax.jit(lambda params, batch, masked: nnx.merge(graph, params)(batch, masked=masked))

    def __call__(
        self, batch: Mapping[str, Any], masked: np.ndarray | None = None
    ) -> tuple[Streams, dict[str, np.ndarray]]:
        streams, outputs = jax.device_get(self._call(self._params, dict(batch), masked))
        return streams, outputs
