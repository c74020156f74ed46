"""One step as a function of state and batch: update, average, skipped updates, keys, metrics."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from mmjax.optim.optimizer import OptimConfig
from mmjax.training import gradients
from mmjax.training.state import TrainState
from mmjax.training.step import TrainConfig, average
from mmjax.types import Batch
from tests.tolerances import LAYER, above, relative_errors
from tests.training import toy

TRAIN = TrainConfig(num_steps=10, seed=3, nonfinite="skip", ema_decay=0.5)


def nan_batch(mesh: Mesh) -> Batch:
    batch = dict(toy.batch(mesh))
    batch["weights"] = batch["weights"] * jnp.nan
    return batch


def unused(state: TrainState) -> TrainState:
    """A copy to be used up, as the step takes the state it is given."""
    return jax.tree.map(jnp.copy, state)


def test_sgd_follows_the_gradient_and_counts_the_step(mesh: Mesh) -> None:
    program = toy.program(mesh, TRAIN)
    state, batch = program.init(), toy.batch(mesh)
    gradient = jax.jit(gradients.at_once(program.model.graphdef, toy.SIGMOID))
    grads, loss, _ = gradient(state.params, batch, {}, jax.random.key(0))
    expected = jax.tree.map(lambda param, grad: param - toy.SGD.learning_rate * grad, state.params, grads)
    new, metrics = program.step(unused(state), batch)
    assert above(relative_errors(new.params, expected), LAYER) == {}
    assert (int(new.step), int(new.skipped)) == (1, 0)
    assert float(metrics["loss"]) == pytest.approx(float(loss.total.value), rel=LAYER)
    assert float(metrics["learning_rate"]) == np.float32(toy.SGD.learning_rate)
    assert set(metrics) == {
        *("loss", "loss/sigmoid", "grad_norm", "param_norm", "learning_rate", "logit_scale", "logit_bias", "skipped")
    }
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(grads)))
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    skips_what_is_not_finite(program.step, new, mesh)


def skips_what_is_not_finite(step: Callable[..., Any], state: TrainState, mesh: Mesh) -> None:
    """Here and not as a test of its own, so that the step is compiled once."""
    skipped, metrics = step(unused(state), nan_batch(mesh))
    assert not np.isfinite(metrics["loss"])
    assert int(metrics["skipped"]) == 1
    assert (int(skipped.step), int(skipped.skipped)) == (2, 1)
    kept = skipped._replace(step=state.step, skipped=state.skipped)
    jax.tree.map(np.testing.assert_array_equal, kept, state)
    again, metrics = step(skipped, toy.batch(mesh))
    assert (int(again.step), int(again.skipped)) == (3, 1)
    assert np.isfinite(metrics["loss"])


def test_adamw_changes_every_parameter_and_without_skipping_nothing_is_counted(mesh: Mesh) -> None:
    train = replace(TRAIN, nonfinite="stop", ema_decay=0.0)
    program = toy.program(mesh, train, OptimConfig(optimizer="adamw", weight_decay=0.1))
    state = program.init()
    new, metrics = program.step(unused(state), toy.batch(mesh))
    same = jax.tree.map(lambda old, new: bool(jnp.all(old == new)), state.params, new.params)
    assert not any(jax.tree.leaves(same))
    assert "skipped" not in metrics
    assert new.ema == {}
    assert new.eval_params is new.params


def test_the_average_moves_by_its_warmed_up_decay() -> None:
    ema, params = {"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([3.0, 2.0])}
    # (1 + 0) / (10 + 0) = 0.1 at the first step, and the decay itself from where it is larger.
    np.testing.assert_allclose(average(ema, params, 0.99, jnp.array(0))["a"], [0.1 * 1 + 0.9 * 3, 2.0], rtol=1e-6)
    np.testing.assert_allclose(average(ema, params, 0.99, jnp.array(10_000))["a"], [0.99 + 0.03, 2.0], rtol=1e-6)
    assert average({}, params, 0.99, jnp.array(0)) == {}


def test_the_state_keeps_an_average_for_evaluation(mesh: Mesh) -> None:
    program = toy.program(mesh, TRAIN)
    state = program.init()
    new, _ = program.step(unused(state), toy.batch(mesh))
    expected = jax.tree.map(lambda old, new: old + 0.9 * (new - old), state.params, new.params)
    assert above(relative_errors(new.eval_params, expected), LAYER) == {}


def test_dropout_depends_on_seed_and_step_alone(mesh: Mesh) -> None:
    program, batch = toy.program(mesh, TRAIN, dropout_rate=0.5), toy.batch(mesh)
    state = program.init()

    def loss_at(step: int) -> float:
        _, metrics = program.step(unused(state)._replace(step=jnp.array(step, jnp.int32)), batch)
        return float(metrics["loss"])

    assert loss_at(5) == loss_at(5)
    assert loss_at(5) != loss_at(6)
