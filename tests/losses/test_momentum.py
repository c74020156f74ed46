"""The loss over a momentum queue against float64 numpy, its limits, and that the queue never moves."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses import contrastive
from mmjax.losses.momentum import Queue, momentum_contrastive
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.program import Program
from tests.losses import reference
from tests.tolerances import LAYER, above, relative_errors

NUM_ROWS, WIDTH, SCALE = 8, 4, 8.0
BATCHES = 3
MESHES = (None, (1, 1, 1), (8, 1, 1), (2, 2, 2))


def unit(seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(NUM_ROWS, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def batch_of(seed: int) -> tuple[np.ndarray, ...]:
    """Teacher embeddings, ids that recur from batch to batch, weights of 0 and others."""
    rng = np.random.default_rng(seed)
    ids, weights = rng.integers(0, 12, NUM_ROWS), rng.choice([0, 0.5, 1, 2], NUM_ROWS)
    return unit(10 + seed), unit(20 + seed), ids.astype(np.int32), weights.astype(np.float32)


def expected(image: Any, text: Any, log_scale: Any, pushed: list[Any], distillation: float) -> float:
    """From the definitions, one row and one key at a time; targets are constants, and their scale stays `SCALE`."""
    teacher_image, teacher_text, ids, weights = pushed[-1]
    keys = [(i, t, d, w) for batch in pushed for i, t, d, w in zip(*batch, strict=True) if w > 0]
    total = 0.0
    for queries, teachers, side in ((image, teacher_image, 1), (text, teacher_text, 0)):
        for row in np.flatnonzero(weights):
            key_weights = np.asarray([key[3] for key in keys], np.float64)
            same = key_weights * [key[2] == ids[row] for key in keys]
            odds, taught = (
                np.exp(scale * np.asarray([query @ key[side] for key in keys]))
                for scale, query in ((np.exp(log_scale), queries[row]), (SCALE, np.float64(teachers[row])))
            )
            targets = (1 - distillation) * same / same.sum()
            targets += distillation * key_weights * taught / (key_weights @ taught)
            total -= weights[row] * (targets @ np.log(odds / (key_weights @ odds))) / 2
    return total / weights.sum()


def run(pushed: list[Any], distillation: float, sizes: tuple[int, int, int] | None) -> Any:
    def loss(image: Any, text: Any, log_scale: Any, batches: Any) -> Any:
        queue = Queue.empty(BATCHES, NUM_ROWS, WIDTH)
        for batch in batches:
            queue = queue.push(*batch)
        teachers, (ids, weights) = batches[-1][:2], batches[-1][2:]
        options = {"distillation": distillation}
        return momentum_contrastive(image, text, *teachers, queue, log_scale, ids, weights, **options).value

    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    args = (unit(0), unit(1), np.float32(math.log(SCALE)), pushed)
    if sizes is None:
        return jax.device_get(function(*args))
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    with jax.set_mesh(mesh):
        placed = jax.tree.map(lambda x: jax.device_put(x, rules.batch_sharding(mesh)) if x.ndim else x, args)
        return jax.device_get(function(*placed))


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize(("num_pushed", "distillation"), [(2, 0.0), (5, 0.4)])
def test_value_and_gradients_equal_the_definition(sizes, num_pushed, distillation):
    """With two batches the queue is not full, and with five the first two were pushed out."""
    pushed = [batch_of(seed) for seed in range(num_pushed)]

    def by_hand(image: Any, text: Any, log_scale: Any) -> float:
        return expected(image, text, log_scale, pushed[-BATCHES:], distillation)

    args = [np.float64(unit(0)), np.float64(unit(1)), np.float64(math.log(SCALE))]
    value, grads = run(pushed, distillation, sizes)
    assert value == pytest.approx(by_hand(*args), rel=LAYER)
    wanted = tuple(reference.gradient(by_hand, position, *args) for position in range(3))
    assert above(relative_errors(grads, wanted), LAYER) == {}


def test_without_a_queue_and_with_oneself_as_teacher_it_is_the_softmax_loss():
    _, _, ids, weights = batch_of(3)
    image, text, log_scale = unit(0), unit(1), jnp.log(SCALE)
    queue = Queue.empty(1, NUM_ROWS, WIDTH).push(image, text, ids, weights)
    loss = momentum_contrastive(image, text, image, text, queue, log_scale, ids, weights)
    wanted = contrastive(image, text, log_scale, None, ids, weights, kind="softmax")
    assert float(loss.value) == pytest.approx(float(wanted.value), rel=LAYER)


def test_neither_teacher_nor_queue_has_a_gradient():
    image, text, ids, weights = batch_of(0)

    def loss(teacher_image: Any, teacher_text: Any) -> Any:
        queue = Queue.empty(2, NUM_ROWS, WIDTH).push(teacher_image, teacher_text, ids, weights)
        options = {"distillation": 0.5}
        return momentum_contrastive(image, text, teacher_image, teacher_text, queue, 1.0, ids, weights, **options).value

    assert all(np.all(grad == 0) for grad in jax.grad(loss, argnums=(0, 1))(unit(2), unit(3)))


def test_no_row_counts():
    image, text, ids, weights = batch_of(0)
    queue = Queue.empty(2, NUM_ROWS, WIDTH).push(image, text, ids, 0 * weights)

    def loss(image: Any) -> Any:
        return momentum_contrastive(image, text, image, text, queue, 1.0, ids, 0 * weights, distillation=0.5).value

    value, grad = jax.value_and_grad(loss)(image)
    assert value == 0
    assert np.all(grad == 0)


def test_the_queue_stays_where_it_is():
    """Queries are gathered, and sums over keys are added up; no collective is as large as a batch of keys."""
    mesh = make_mesh(MeshConfig(8, 1, 1))
    with jax.set_mesh(mesh):
        rows = rules.batch_sharding(mesh)
        args = [jax.device_put(x, rows) for x in (unit(0), unit(1), *batch_of(0))]
        queue = Queue.empty(64, NUM_ROWS, WIDTH)
        assert queue.image.sharding.spec[1] == rules.BATCH_AXES

        def loss(image: Any, text: Any, teacher_image: Any, teacher_text: Any, ids: Any, weights: Any) -> Any:
            pushed = queue.push(teacher_image, teacher_text, ids, weights)
            return momentum_contrastive(image, text, teacher_image, teacher_text, pushed, 1.0, ids, weights).value

        program = Program(jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*args).compile().as_text())
    gathered = [c.sent_bytes for c in program.collectives if c.operation == "all-gather"]
    assert gathered
    assert sum(gathered) <= 4 * NUM_ROWS * (4 * WIDTH + 2)
    assert all(c.sent_bytes <= 2 * 4 * NUM_ROWS * (4 * WIDTH + 2) for c in program.collectives)
