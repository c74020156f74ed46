"""Every objective of pairs: the loss it is named after, and the same gradient on a mesh in microbatches."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from mmjax import config
from mmjax.errors import UserError
from mmjax.losses import contrastive, ranking
from mmjax.losses.chunked import chunked_sigmoid
from mmjax.losses.info_nce import info_nce
from mmjax.losses.momentum import Queue, momentum_contrastive
from mmjax.objectives.base import ObjectiveConfig
from mmjax.objectives.chunked import ChunkedConfig
from mmjax.objectives.contrastive import ContrastiveConfig
from mmjax.objectives.info_nce import InfoNCEConfig
from mmjax.objectives.momentum import MomentumConfig
from mmjax.objectives.triplet import TripletConfig
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training import gradients
from mmjax.training.cost import step_cost
from mmjax.training.program import Program, batch_shapes, build_program
from mmjax.training.step import TrainConfig
from tests import tiny
from tests.tolerances import LAYER, above, relative_errors
from tests.training import toy

MOMENTUM = MomentumConfig(queue_batches=3, momentum=0.5, distillation_steps=4)


def by_function(name: str, image: Any, text: Any, scale: Any, bias: Any, ids: Any, weights: Any) -> Any:
    """The losses that `CONFIGS` ask for, as pure functions."""
    args = image, text
    match name:
        case "softmax":
            return contrastive(*args, scale, None, ids, weights, kind="softmax").value
        case "info_nce":
            options: Any = {"direction": "text_to_image", "label_smoothing": 0.1, "hardness": 0.3}
            return info_nce(*args, -math.log(0.1), ids, weights, **options).value
        case "clamped":
            return info_nce(*args, math.log(2), ids, weights).value
        case "triplet":
            hinge, distance = ranking.triplet(*args, ids, weights, margin=0.4), ranking.alignment(*args, weights)
            return hinge.value + 0.5 * distance.value
        case "chunked":
            return chunked_sigmoid(*args, scale, bias, ids, weights, num_chunks=4).value
        case _:
            queue = Queue.empty(3, *image.shape).push(image, text, ids, weights)
            return momentum_contrastive(*args, *args, queue, scale, ids, weights).value


CONFIGS = {
    "softmax": ContrastiveConfig("softmax", implementation="ring", tile=3),
    "info_nce": InfoNCEConfig("text_to_image", temperature=0.1, label_smoothing=0.1, hardness=0.3),
    "clamped": InfoNCEConfig(largest_scale=2.0),
    "triplet": TripletConfig(margin=0.4, alignment=0.5),
    "chunked": ChunkedConfig(num_chunks=4),
    "momentum": MOMENTUM,
}


def program_of(config: Any, sizes: tuple[int, int, int], accumulate: int = 1) -> tuple[Program, Mesh]:
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    spec = batch_shapes(tiny.data(toy.NUM_ROWS), mesh)
    train = TrainConfig(num_steps=10, accumulate=accumulate)
    with jax.set_mesh(mesh):
        return build_program(toy.build(), config.build(), toy.SGD, train, mesh, spec), mesh


def gradient_of(config: Any, sizes: tuple[int, int, int], accumulate: int) -> Any:
    program, mesh = program_of(config, sizes, accumulate)
    with jax.set_mesh(mesh):
        state, batch = program.init(), toy.batch(mesh)
        gradient = jax.jit(gradients.make_gradient(program.model.graphdef, program.objective, accumulate))
        grads, loss, _ = gradient(state.params, batch, state.objective, jax.random.key(1))
        model: Any = nnx.merge(program.model.graphdef, state.params)
        embeds = program.objective.encode(model, batch, None)
        return jax.device_get((grads, loss.total.value, embeds, model.log_scale[...], model.bias()))


@pytest.mark.parametrize("name", CONFIGS)
def test_an_objective_is_its_loss_on_any_mesh_in_any_microbatches(name: str) -> None:
    grads, loss, embeds, scale, bias = gradient_of(CONFIGS[name], (1, 1, 1), 1)
    meshed_grads, meshed_loss, *_ = gradient_of(CONFIGS[name], (2, 2, 2), 2)
    assert above(relative_errors((meshed_grads, meshed_loss), (grads, loss)), LAYER) == {}
    batch = toy.batch(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]))
    ids, weights = np.asarray(batch["ids"]), np.asarray(batch["weights"])
    args = [jnp.asarray(x) for x in (embeds["image"], embeds["text"], scale, bias, ids, weights)]
    assert float(loss) == pytest.approx(float(by_function(name, *args)), rel=LAYER)


@pytest.fixture(scope="module")
def momentum() -> Any:
    """Program, mesh, and the states before and after each of two steps."""
    program, mesh = program_of(MOMENTUM, (2, 4, 1))
    with jax.set_mesh(mesh):
        states = [program.init()]
        for seed in range(2):
            states.append(program.step(jax.tree.map(jnp.copy, states[-1]), toy.batch(mesh, seed))[0])
    return program, mesh, states


def test_the_teacher_follows_and_its_embeddings_enter_the_queue(momentum: Any) -> None:
    program, mesh, states = momentum
    with jax.set_mesh(mesh):
        teachers = [state.objective["teacher"] for state in states]
        for before, after, state in zip(teachers, teachers[1:], states, strict=False):
            moved = jax.tree.map(lambda old, new: (old + new) / 2, before, state.params)
            assert above(relative_errors(after, moved), LAYER) == {}
        queue = states[2].objective["queue"]
        for slot in range(2):
            batch, model = toy.batch(mesh, slot), nnx.merge(program.model.graphdef, teachers[slot + 1])
            embeds = program.objective.encode(model, batch, None)
            assert above(relative_errors(queue.image[slot], embeds["image"]), LAYER) == {}
            assert above(relative_errors(queue.text[slot], embeds["text"]), LAYER) == {}
            np.testing.assert_array_equal(queue.ids[slot], batch["ids"])
            np.testing.assert_array_equal(queue.weights[slot], batch["weights"])
    assert int(queue.slot) == int(states[2].objective["step"]) == 2
    assert np.all(np.asarray(queue.weights[2]) == 0)


def test_teacher_and_queue_are_split_over_the_mesh(momentum: Any) -> None:
    _, _, states = momentum
    for state in states:
        queue = state.objective["queue"]
        assert queue.image.sharding.spec[1] == queue.ids.sharding.spec[1] == rules.BATCH_AXES
        same = jax.tree.map(lambda a, b: a.sharding == b.sharding, state.objective["teacher"], state.params)
        assert all(jax.tree.leaves(same))


def test_a_teacher_costs_one_forward_pass(momentum: Any) -> None:
    program, mesh, _ = momentum
    plain, _ = program_of(InfoNCEConfig(), (2, 4, 1))
    with jax.set_mesh(mesh):
        costs = [step_cost(p, 1.0) for p in (program, plain)]
        towers = [sum(cost.tower_flops.values()) * cost.batch_size for cost in costs]
    product = 2 * toy.NUM_ROWS**2 * toy.WIDTH
    assert costs[1].step_flops == 3 * (towers[1] + product)
    # Two sides of the student and of the teacher are compared with three batches.
    assert costs[0].step_flops == (3 + 1) * towers[0] + 3 * (2 + 2) * 3 * product


def test_distillation_grows() -> None:
    objective = MOMENTUM.build()
    grown = [float(objective._distillation(jnp.asarray(step))) for step in (0, 2, 4, 9)]
    np.testing.assert_allclose(grown, [0, 0.2, 0.4, 0.4], rtol=1e-6)
    assert float(replace(MOMENTUM, distillation_steps=0).build()._distillation(jnp.asarray(0))) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MomentumConfig(queue_batches=0), "objective.queue_batches = 0 must be at least 1"),
        (lambda: MomentumConfig(momentum=1.0), r"objective.momentum = 1.0 is not in \[0, 1\)"),
        (lambda: MomentumConfig(distillation=2.0), r"objective.distillation = 2.0 is not in \[0, 1\]"),
        (lambda: InfoNCEConfig(temperature=-1.0), "objective.temperature = -1.0 is negative"),
        (lambda: InfoNCEConfig(hardness=-1.0), "objective.hardness = -1.0 is negative"),
        (lambda: InfoNCEConfig(label_smoothing=1.0), r"objective.label_smoothing = 1.0 is not in \[0, 1\)"),
        (lambda: InfoNCEConfig(largest_scale=0.0), "objective.largest_scale = 0.0 is not positive"),
        (lambda: TripletConfig(margin=0.0), "objective.margin = 0.0 is not positive"),
        (lambda: TripletConfig(alignment=-1.0), "objective.alignment = -1.0 is negative"),
    ],
)
def test_options_that_mean_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("objective", CONFIGS.values(), ids=CONFIGS)
def test_a_config_names_its_objective(objective: Any) -> None:
    values = config.to_dict(objective, ObjectiveConfig)
    assert values["class"].endswith(f":{type(objective).__name__}")
    assert config.from_dict(ObjectiveConfig, values) == objective


def test_a_config_without_the_name_of_its_objective_is_refused() -> None:
    with pytest.raises(UserError, match="config.objective.class is missing: name the config class"):
        config.from_dict(ObjectiveConfig, {"kind": "softmax"}, "config.objective")
