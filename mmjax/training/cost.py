"""What a training step costs: model FLOPs per tower and in all, beside the peak of the devices."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from mmjax.objectives.base import ObjectiveState
from mmjax.parallel import rules
from mmjax.training.flops import TRAIN_PER_FORWARD, count_flops
from mmjax.training.logs import Cost
from mmjax.training.peak import peak_flops_per_sec
from mmjax.training.program import Program, placed
from mmjax.types import Batch, Key, Params


def step_cost(program: Program, peak_override: float = 0.0) -> Cost:
    """The cost of one step of `program`; call it under the mesh.

    The step is counted as three forward passes, whatever rematerialisation or cached embeddings compute again; but a
    teacher and a locked tower, which have no gradient, as one. Dropped patches are not computed and not counted.
    """
    objective, mesh = program.objective, jax.sharding.get_mesh()
    # Traced for no device: some have forms that multiply more, as with rows that only fill a tile.
    plain = rules.without_devices(mesh)
    batch, state = (placed(tree, plain) for tree in (program.batch_spec, program.abstract_state))

    def key() -> Key:
        # Made where it is traced, as the devices may be there only for the compiler.
        return jax.random.key(0)

    def flops(forward: Callable[[Any, Batch, ObjectiveState], Any]) -> int:
        def of_params(params: Params, batch: Batch, carried: ObjectiveState) -> Any:
            return forward(nnx.merge(program.model.graphdef, params), batch, carried)

        with jax.sharding.use_abstract_mesh(plain):
            return count_flops(of_params, state.params, batch, state.objective)

    def image_tower(model: Any, batch: Batch, carried: ObjectiveState) -> Any:
        return model.run_tower("image", batch, key())

    def text_tower(model: Any, batch: Batch, carried: ObjectiveState) -> Any:
        return model.run_tower("text", batch, key())

    def teacher(model: Any, batch: Batch, carried: ObjectiveState) -> Any:
        return objective.teach(model, batch, carried)

    def locked_tower(model: Any, batch: Batch, carried: ObjectiveState) -> Any:
        towers = {"image": image_tower, "text": text_tower}
        locked = getattr(getattr(model, "config", None), "locked", "none")
        return towers[locked](model, batch, carried) if locked in towers else ()

    def up_to_loss(model: Any, batch: Batch, carried: ObjectiveState) -> Any:
        return objective.loss(model, objective.encode(model, batch, key()), batch, carried, key())

    batch_size = next(iter(batch.values())).shape[0]
    towers = {"image": flops(image_tower) // batch_size, "text": flops(text_tower) // batch_size}
    devices = list(mesh.devices.flat)
    peak = peak_flops_per_sec(devices[0].device_kind, len(devices), peak_override)
    constant = flops(teacher) + flops(locked_tower)
    total = TRAIN_PER_FORWARD * (flops(up_to_loss) - constant) + constant
    return Cost(batch_size, towers, total, peak.flops_per_sec)
