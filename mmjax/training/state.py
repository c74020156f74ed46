"""Everything a run carries from step to step, born sharded."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mmjax.nn.parameter import storage_spec_of
from mmjax.objectives.base import Objective, ObjectiveState
from mmjax.types import Array, BatchSpec, Key, Params


class TrainState(NamedTuple):
    """The state of a run. Randomness is not in it: keys are derived from the seed and `step`."""

    step: Array
    """int32 (), the number of updates made."""
    params: Params
    opt_state: optax.OptState
    ema: Params
    """Exponential moving average of `params`; empty where `train.ema_decay` is 0."""
    objective: ObjectiveState
    skipped: Array
    """int32 (), updates left out because the loss or a gradient was not finite."""

    @property
    def eval_params(self) -> Params:
        """What is evaluated and exported: the average where there is one."""
        return self.ema or self.params


class ModelSpec(NamedTuple):
    """A model before it has values: its graph, and how each of its parameters is stored."""

    graphdef: nnx.GraphDef
    params_spec: Params
    """A PartitionSpec for each parameter."""


def model_spec(build: Callable[[Key], nnx.Module], mesh: jax.sharding.Mesh) -> ModelSpec:
    """The graph and storage specs of `build(key)`, without computing anything.

    Raises:
        UserError: the mesh does not divide heads, feed-forward width or vocabulary.
    """
    graphdef, variables = nnx.split(nnx.eval_shape(lambda: build(jax.random.key(0))))
    specs = jax.tree.map(
        lambda variable: storage_spec_of(variable, mesh),
        variables,
        is_leaf=lambda x: isinstance(x, nnx.Variable),
    )
    return ModelSpec(graphdef, nnx.to_pure_dict(specs))


def init_params(build: Callable[[Key], nnx.Module], specs: Params, key: Key) -> Params:
    """Parameters of `build(key)`, each computed in the shards it is stored in.

    Inside `auto_axes` the compiler partitions the initialisers themselves; under explicit axes every device would
    compute whole arrays and throw most of them away.
    """

    def values(key: Key) -> Params:
        return nnx.to_pure_dict(nnx.split(build(key))[1])

    return jax.sharding.auto_axes(values, out_sharding=specs)(key)


def first_state(
    params: Params,
    spec: ModelSpec,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    batch_spec: BatchSpec,
    *,
    use_ema: bool,
) -> TrainState:
    """The state before the first step of a run that starts from `params`.

    Call it under `jax.jit`, or `jax.eval_shape` for shapes and shardings alone.
    """
    model: Any = nnx.merge(spec.graphdef, params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if use_ema else {},
        objective=objective.init_state(model, batch_spec),
        skipped=jnp.zeros((), jnp.int32),
    )
