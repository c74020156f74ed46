from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax.errors import UserError
from mmjax.optim.directions import AdafactorConfig
from mmjax.optim.muon import MuonConfig
from mmjax.optim.optimizer import CLIP_CLAMPS, STATISTICS_RATE, OptimConfig, make_optimizer
from mmjax.optim.rules import DEFAULT_RULES, Rule
from mmjax.optim.schedules import ScheduleConfig
from mmjax.optim.transforms import Clamp
from tests.optim import reference

LR, DECAY, NUM_STEPS = 0.01, 0.1, 3
CONSTANT = ScheduleConfig("constant")
FACTOR_ALL = AdafactorConfig(min_factored_len=1)


def draw(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def small_params() -> dict[str, Any]:
    return {"image": {"kernel": draw((4, 6), 0), "bias": draw((6,), 1)}, "log_scale": draw((), 2)}


def grads_like(params: dict[str, Any]) -> list[dict[str, Any]]:
    return [jax.tree.map(lambda p, t=t: draw(p.shape, 10 + t + p.size), params) for t in range(NUM_STEPS)]


def run(config: OptimConfig, params: dict[str, Any], grads: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    optimizer, _ = make_optimizer(config, params, NUM_STEPS)

    @jax.jit
    def step(params: Any, state: Any, grad: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    for grad in grads:
        params, state = step(params, state, grad)
    return params, state


def config(**fields: Any) -> OptimConfig:
    return OptimConfig(**{"learning_rate": LR, "weight_decay": DECAY, "schedule": CONSTANT, "clip_norm": 0.0} | fields)


def test_running_statistics_follow_at_their_own_rate() -> None:
    params = {"norm": {"running_mean": draw((3,), 0), "scale": draw((3,), 1)}}
    grads = grads_like(params)
    trained, _ = run(config(clip_norm=1e-3), params, grads[:1])
    expected = params["norm"]["running_mean"] - STATISTICS_RATE * grads[0]["norm"]["running_mean"]
    np.testing.assert_allclose(trained["norm"]["running_mean"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adafactor"])
def test_three_steps_equal_float64_reference(name: str) -> None:
    params = small_params()
    grads = grads_like(params)
    trained, _ = run(config(optimizer=name, adafactor=FACTOR_ALL), params, grads)
    kernels = [np.float64(grad["image"]["kernel"]) for grad in grads]
    expected = getattr(reference, name)(np.float64(params["image"]["kernel"]), kernels, LR, DECAY)
    np.testing.assert_allclose(trained["image"]["kernel"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd"])
def test_bias_follows_the_reference_without_decay(name: str) -> None:
    params = small_params()
    grads = grads_like(params)
    trained, _ = run(config(optimizer=name), params, grads)
    biases = [np.float64(grad["image"]["bias"]) for grad in grads]
    expected = getattr(reference, name)(np.float64(params["image"]["bias"]), biases, LR, 0.0)
    np.testing.assert_allclose(trained["image"]["bias"], expected, rtol=1e-5, atol=1e-6)


def test_adam_is_adamw_without_decay() -> None:
    params = small_params()
    grads = grads_like(params)
    adam, _ = run(config(optimizer="adam", weight_decay=0.0), params, grads)
    adamw, _ = run(config(optimizer="adamw", weight_decay=0.0), params, grads)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, adam, adamw)))


def test_muon_treats_each_layer_as_one_matrix() -> None:
    query = draw((2, 8, 6), 0)
    params = {"image": {"blocks": {"attention": {"query": {"kernel": query}}}}, "log_scale": draw((), 1)}
    grads = jax.tree.map(lambda p: draw(p.shape, 5), params)
    trained, _ = run(config(optimizer="muon", weight_decay=0.0, muon=MuonConfig(momentum=0.0)), params, [grads])
    moved = (query - trained["image"]["blocks"]["attention"]["query"]["kernel"]) / LR
    for layer in range(2):
        gradient = np.float64(grads["image"]["blocks"]["attention"]["query"]["kernel"][layer])
        expected = 0.2 * np.sqrt(8) * reference.muon_direction(gradient)
        np.testing.assert_allclose(moved[layer], expected, rtol=1e-3, atol=1e-4)


def test_muon_without_matrices_is_refused() -> None:
    with pytest.raises(UserError, match="optim.muon.matrices"):
        run(config(optimizer="muon"), small_params(), [])


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "sgd"])
def test_frozen_parameters_stay_and_take_no_memory(name: str) -> None:
    params = small_params()
    rules = (Rule("image/kernel", freeze=True), *DEFAULT_RULES)
    trained, state = run(config(optimizer=name, rules=rules, adafactor=FACTOR_ALL), params, grads_like(params))
    np.testing.assert_array_equal(trained["image"]["kernel"], params["image"]["kernel"])
    assert not np.array_equal(trained["image"]["bias"], params["image"]["bias"])
    assert all(leaf.size < params["image"]["kernel"].size for leaf in jax.tree.leaves(state))


def test_frozen_parameters_are_left_out_of_the_clipping_norm() -> None:
    params = small_params()
    grads = jax.tree.map(lambda p: np.full_like(p, 0.01), params)
    grads["image"]["kernel"] = np.full_like(params["image"]["kernel"], 1e6)
    rules = (Rule("image/kernel", freeze=True), *DEFAULT_RULES)
    trained, _ = run(config(optimizer="sgd", clip_norm=1.0, rules=rules), params, [grads])
    np.testing.assert_allclose(trained["image"]["bias"], params["image"]["bias"] - LR * 0.01, rtol=1e-6)


def test_clipping_bounds_the_global_norm() -> None:
    params = small_params()
    grads = jax.tree.map(lambda p: np.full_like(p, 3.0), params)
    trained, _ = run(config(optimizer="sgd", clip_norm=0.5, weight_decay=0.0), params, [grads])
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, params, trained))
    np.testing.assert_allclose(moved, LR * 0.5, rtol=1e-4)


def test_lr_scale_multiplies_the_whole_update() -> None:
    params = small_params()
    grads = grads_like(params)[:1]
    whole, _ = run(config(rules=(Rule(".*"),)), params, grads)
    half, _ = run(config(rules=(Rule(".*", lr_scale=0.5),)), params, grads)
    kernel, moved_whole, moved_half = (tree["image"]["kernel"] for tree in (params, whole, half))
    np.testing.assert_allclose(moved_half - kernel, (moved_whole - kernel) / 2, rtol=1e-3)


def test_decay_scale_multiplies_decay_alone() -> None:
    params = small_params()
    zeros = jax.tree.map(np.zeros_like, params)
    trained, _ = run(config(rules=(Rule(".*", decay_scale=2.0),)), params, [zeros])
    np.testing.assert_allclose(trained["image"]["kernel"], params["image"]["kernel"] * (1 - LR * 2 * DECAY), rtol=1e-6)


def test_clamp_keeps_the_logit_scale_at_most_100() -> None:
    params = small_params() | {"log_scale": np.float32(4.6)}
    grads = jax.tree.map(lambda p: -np.ones_like(p), params)
    trained, _ = run(config(optimizer="sgd", learning_rate=1.0, clamps=CLIP_CLAMPS), params, [grads])
    np.testing.assert_allclose(np.exp(trained["log_scale"]), 100, rtol=1e-6)


def test_clamp_without_a_match_names_the_nearest_path() -> None:
    with pytest.raises(UserError, match="optim.clamps.*the nearest are log_scale"):
        make_optimizer(config(clamps=(Clamp("logscale", 0, 1),)), small_params(), NUM_STEPS)


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adafactor"])
def test_momentum_dtype_halves_the_first_moment(name: str) -> None:
    params = small_params()
    _, state = run(config(optimizer=name, momentum_dtype="bfloat16"), params, grads_like(params))
    halved = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.bfloat16]
    assert sorted(halved) == sorted(leaf.shape for leaf in jax.tree.leaves(params))


def test_sgd_without_momentum_keeps_no_moments() -> None:
    params = small_params()
    _, state = run(config(optimizer="sgd", momentum=0.0), params, grads_like(params))
    assert all(leaf.size == 1 for leaf in jax.tree.leaves(state))


def test_shapes_alone_make_the_same_optimizer() -> None:
    params = small_params()
    shapes = jax.eval_shape(lambda: params)
    optimizer, schedule = make_optimizer(config(), shapes, NUM_STEPS)
    assert jax.tree.structure(optimizer.init(params)) == jax.tree.structure(run(config(), params, [])[1])
    assert float(schedule(0)) == np.float32(LR)


@pytest.mark.parametrize(
    "fields", [{"optimizer": "adam"}, {"learning_rate": -1.0}, {"clip_norm": -1.0}, {"beta2": 1.0}, {"momentum": 1.5}]
)
def test_values_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="optim."):
        make_optimizer(config(**fields), small_params(), NUM_STEPS)
