"""A loss of each example alone on several meshes: its value and gradient there, and that rows stay where they are."""

import math
from collections.abc import Callable
from typing import Any

import jax

from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.program import Program
from mmjax.types import Mean

MESHES = (None, (8, 1, 1), (2, 4, 1), (2, 2, 2))


def value_and_gradients(
    loss: Callable[..., Mean], args: tuple[Any, ...], by: tuple[int, ...], sizes: tuple[int, int, int] | None
) -> Any:
    """Of the mean, by the arguments of these positions; rows of all arguments are split as those of a batch are."""
    function = jax.jit(jax.value_and_grad(lambda *args: loss(*args).value, argnums=by))
    if sizes is None:
        return jax.device_get(function(*args))
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    with jax.set_mesh(mesh):
        args = jax.device_put(args, rules.batch_sharding(mesh))
        program = function.lower(*args).compile()
        assert set(Program(program.as_text()).collective_counts) <= {"all-reduce"}
        value, grads = program(*args)
        assert all(grad.sharding.is_equivalent_to(rules.batch_sharding(mesh), grad.ndim) for grad in grads)
        return jax.device_get((value, grads))
