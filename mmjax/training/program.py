"""A run as compiled functions: where the state comes from, and how it steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.data.config import DataConfig
from mmjax.data.shapes import row_shapes
from mmjax.objectives.base import Objective
from mmjax.optim.optimizer import OptimConfig, make_optimizer
from mmjax.parallel import rules
from mmjax.training.state import ModelSpec, TrainState, first_state, init_params, model_spec
from mmjax.training.step import TrainConfig, make_train_step
from mmjax.types import BatchSpec, Key, Params

BuildModel = Callable[[Key], nnx.Module]


class Program(NamedTuple):
    """What a loop needs of a model, an objective and an optimizer on one mesh."""

    model: ModelSpec
    objective: Objective
    batch_spec: BatchSpec
    abstract_state: TrainState
    """Shapes, types and shardings of the state, without values."""
    init: jax.stages.Wrapped
    """() -> TrainState: compiles and computes the state before the first step."""
    init_params: jax.stages.Wrapped
    """() -> Params: its parameters alone."""
    init_from: jax.stages.Wrapped
    """Params -> TrainState: the state before the first step of a run that starts from these, which are used up."""
    step: jax.stages.Wrapped
    """A `TrainStep`, compiled at its first call; the state it is given is used up."""


def build_program(
    build_model: BuildModel,
    objective: Objective,
    optim: OptimConfig,
    train: TrainConfig,
    mesh: jax.sharding.Mesh,
    batch_spec: BatchSpec,
) -> Program:
    """The program of a run; nothing is computed yet. Call it, and what it returns, under `jax.set_mesh(mesh)`.

    Raises:
        UserError: the mesh does not divide the model, or optimizer rules do not fit its parameters.
    """
    spec = model_spec(build_model, mesh)
    params = abstract_params(build_model, spec)
    optimizer, schedule = make_optimizer(optim, params, train.num_steps)

    def born() -> Params:
        return init_params(build_model, spec.params_spec, jax.random.key(train.seed))

    def init_from(params: Params) -> TrainState:
        return first_state(params, spec, objective, optimizer, batch_spec, use_ema=train.ema_decay > 0)

    def init() -> TrainState:
        return init_from(born())

    step = make_train_step(spec.graphdef, objective, optimizer, schedule, train)
    abstract_state = placed(jax.eval_shape(init), mesh)
    return Program(
        spec,
        objective,
        batch_spec,
        abstract_state,
        init=_run_once(init),
        init_params=_run_once(born),
        init_from=_run_once(init_from, donate_argnums=0),
        step=jax.jit(step, donate_argnums=0),
    )


def _run_once(function: Callable[..., Any], **how: Any) -> jax.stages.Wrapped:
    """Compiled on CPU without LLVM's optimisations, which take longer there than they could save in one run."""
    options = {"xla_backend_optimization_level": 0} if rules.runs_on_cpu() else None
    return jax.jit(function, compiler_options=options, **how)


def abstract_params(build_model: BuildModel, spec: ModelSpec) -> Params:
    """Shapes and types of the parameters."""
    return jax.eval_shape(lambda: nnx.to_pure_dict(nnx.split(build_model(jax.random.key(0)))[1]))


def placed(tree: Any, mesh: rules.AnyMesh) -> Any:
    """The same shapes with shardings on `mesh`; under tracing they only name its axes."""

    def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = leaf.sharding.spec if leaf.sharding is not None else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


def batch_shapes(data: DataConfig, mesh: jax.sharding.Mesh) -> BatchSpec:
    """Shapes, types and shardings of a global batch that is read so."""
    sharding = rules.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((data.batch_size, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in row_shapes(data).items()
    }
