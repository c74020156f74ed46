"""Values and gradients against float64, and the algebra: masking, permutation, exchange of the sides, any mesh."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses import contrastive
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.losses import reference
from tests.tolerances import LAYER, above, relative_errors

LOSSES = {"sigmoid": (contrastive.sigmoid, reference.sigmoid), "softmax": (contrastive.softmax, reference.softmax)}
NAMES = pytest.mark.parametrize("name", LOSSES)


def inputs(num_rows: int = 8, width: int = 4) -> tuple[Any, ...]:
    """Unit embeddings, a scale and a bias, ids with a pair and a triple, and weights of 0, 1 and between."""
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=(num_rows, width)) for _ in range(2))
    unit = [(side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in (image, text)]
    ids = np.asarray([0, 1, 2, 1, 3, 3, 3, 4] * (num_rows // 8), np.int32)
    weights = np.asarray([1, 1, 0, 1, 0.5, 1, 0, 1] * (num_rows // 8), np.float32)
    return *unit, np.float32(1.5), np.float32(-2.0), ids, weights


@functools.cache
def compiled(name: str) -> Any:
    """Value and gradients by everything but ids and weights, on the host."""
    function = jax.jit(jax.value_and_grad(lambda *args: LOSSES[name][0](*args).value, argnums=(0, 1, 2, 3)))
    return lambda *args: jax.device_get(function(*args))


@NAMES
def test_value_and_gradients_equal_the_reference(name):
    args = inputs()
    double = [np.asarray(arg, np.float64) for arg in args]
    value, grads = compiled(name)(*args)
    loss = LOSSES[name][1]
    expected = loss(*double), tuple(reference.gradient(loss, position, *double) for position in range(4))
    assert above(relative_errors((value, grads), expected), LAYER) == {}


@NAMES
def test_masking_a_row_equals_removing_it(name):
    args = inputs()
    kept = args[-1] > 0
    value, grads = compiled(name)(*args)
    smaller = [arg[kept] if arg.ndim else arg for arg in args]
    smaller_value, smaller_grads = compiled(name)(*smaller)
    masked_grads = [grad[kept] if grad.ndim else grad for grad in grads]
    assert above(relative_errors([value, *masked_grads], [smaller_value, *smaller_grads]), LAYER) == {}
    assert all(np.all(grad[~kept] == 0) for grad in grads[:2])


@NAMES
def test_a_masked_row_may_hold_anything(name):
    args = inputs()
    image = args[0].copy()
    image[args[-1] == 0] = 0
    value, grads = compiled(name)(image, *args[1:])
    assert value == pytest.approx(compiled(name)(*args)[0], rel=LAYER)
    assert all(np.isfinite(grad).all() for grad in grads)


@NAMES
def test_the_order_of_rows_does_not_matter(name):
    args = inputs()
    order = np.random.default_rng(1).permutation(8)
    value, grads = compiled(name)(*args)
    moved_value, moved_grads = compiled(name)(*(arg[order] if arg.ndim else arg for arg in args))
    expected = [grad[order] if grad.ndim else grad for grad in grads]
    assert above(relative_errors([moved_value, *moved_grads], [value, *expected]), LAYER) == {}


def test_softmax_is_symmetric_in_its_sides():
    image, text, *rest = inputs()
    value, (by_image, by_text, *_) = compiled("softmax")(image, text, *rest)
    swapped_value, (by_first, by_second, *_) = compiled("softmax")(text, image, *rest)
    expected = [value, by_text, by_image]
    assert above(relative_errors([swapped_value, by_first, by_second], expected), LAYER) == {}


@NAMES
def test_defaults_are_distinct_ids_and_weights_of_one(name):
    args = inputs()
    ids, weights = np.arange(8, dtype=np.int32), np.ones(8, np.float32)
    expected, _ = compiled(name)(*args[:4], ids, weights)
    assert float(LOSSES[name][0](*args[:4]).value) == pytest.approx(expected, rel=LAYER)


def test_sigmoid_of_a_batch_of_one():
    one = jnp.ones((1, 1))
    loss = contrastive.sigmoid(one, one, jnp.zeros(()), jnp.zeros(()))
    assert float(loss.value) == pytest.approx(np.log1p(np.exp(-1)), rel=LAYER)


def test_softmax_splits_its_target_over_equal_ids():
    """All ids equal and all logits equal: cross-entropy of two uniform distributions, log 4."""
    rows = jnp.ones((4, 2))
    loss = contrastive.softmax(rows, rows, jnp.zeros(()), ids=jnp.zeros(4, jnp.int32))
    assert float(loss.value) == pytest.approx(np.log(4), rel=LAYER)


@NAMES
def test_no_row_counts(name):
    args = inputs()
    value, grads = compiled(name)(*args[:-1], np.zeros(8, np.float32))
    assert value == 0
    assert all(np.all(grad == 0) for grad in grads)


@NAMES
def test_soft_targets_equal_the_reference(name):
    args = inputs()
    drawn = np.random.default_rng(2).uniform(size=(8, 8)).astype(np.float32)
    args = (*args, (drawn + drawn.T) / 2)
    double = [np.asarray(arg, np.float64) for arg in args]
    value, grads = compiled(name)(*args)
    loss = LOSSES[name][1]
    expected = loss(*double), tuple(reference.gradient(loss, position, *double) for position in range(4))
    assert above(relative_errors((value, grads), expected), LAYER) == {}


def test_a_sure_and_right_pair_costs_nothing():
    one = jnp.ones((1, 1))
    assert float(contrastive.sigmoid(one, one, jnp.log(jnp.float32(100)), jnp.zeros(())).value) == 0


@NAMES
def test_bfloat16_embeddings_are_computed_on_in_float32(name):
    image, text, *rest = inputs()
    image, text = image.astype(jnp.bfloat16), text.astype(jnp.bfloat16)
    value, _ = compiled(name)(image, text, *rest)
    assert value.dtype == jnp.float32
    expected, _ = compiled(name)(image.astype(np.float32), text.astype(np.float32), *rest)
    assert value == pytest.approx(expected, rel=LAYER)


@NAMES
def test_rows_split_over_devices_give_the_same(name):
    args = inputs(16)
    expected = compiled(name)(*args)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        placed = [jax.device_put(arg, rules.batch_sharding(mesh)) if arg.ndim else jnp.asarray(arg) for arg in args]
        split = jax.jit(jax.value_and_grad(lambda *args: LOSSES[name][0](*args).value, argnums=(0, 1, 2, 3)))(*placed)
        assert split[1][0].sharding.is_equivalent_to(rules.batch_sharding(mesh), 2)
    assert above(relative_errors(jax.device_get(split), expected), LAYER) == {}
