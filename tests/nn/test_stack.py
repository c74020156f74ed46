"""How a stack is run changes no result: scan == loop, straight-line code == scan, rematerialised == kept."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.nn import stack
from mmjax.nn.block import Block, BlockConfig
from mmjax.nn.stack import ALL, StackConfig
from tests.tolerances import LAYER, above, relative_errors

BLOCK = BlockConfig(width=8, num_heads=2, mlp_dim=16, dropout_rate=0.2)
DEPTH = 2
SCANNED = StackConfig(DEPTH, drop_path_rate=0.3)


@functools.cache
def values() -> tuple[Any, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
    params = jax.jit(lambda: nnx.to_pure_dict(nnx.state(stack.stacked(BLOCK, DEPTH, jax.random.key(0)))))()
    return params, x


def merged(params: Any) -> Any:
    return nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: stack.stacked(BLOCK, DEPTH, jax.random.key(0)))), params)


def value_and_grad(config: StackConfig) -> Any:
    def loss(params: Any, x: Any) -> Any:
        return jnp.mean(jnp.square(stack.run(merged(params), config, x, key=jax.random.key(1))))

    return jax.device_get(jax.jit(jax.value_and_grad(loss))(*values()))


@functools.cache
def scanned() -> Any:
    return value_and_grad(SCANNED)


@pytest.mark.parametrize(
    "config",
    [
        StackConfig(DEPTH, 0.3, unroll=ALL),
        StackConfig(DEPTH, 0.3, remat="full"),
        StackConfig(DEPTH, 0.3, remat="branches"),
        StackConfig(DEPTH, 0.3, remat="narrow"),
        StackConfig(DEPTH, 0.3, remat="dots", unroll=ALL),
    ],
    ids=str,
)
def test_how_it_is_run_changes_nothing(config):
    assert above(relative_errors(value_and_grad(config), scanned()), LAYER) == {}


def test_dots_are_what_remat_keeps():
    """Products with parameters are computed once, and with remat in full a second time."""
    kinds = ("none", "dots", "narrow", "branches", "full")
    found = {remat: num_products(StackConfig(DEPTH, 0.3, remat=remat)) for remat in kinds}
    # Of each of six: one forward, two backward; in full all forward but the last, which only the backward pass of what
    # is behind it could need. What stands between the branches spares the one before it, and saved narrow products all
    # but the widening one.
    assert found == {"none": 18, "dots": 18, "narrow": 19, "branches": 22, "full": 23}


def num_products(config: StackConfig) -> int:
    """Products of two arrays of two or three axes without batch axes, loops counted once."""

    def loss(params: Any, x: Any) -> Any:
        return jnp.mean(jnp.square(stack.run(merged(params), config, x, key=jax.random.key(1))))

    return str(jax.make_jaxpr(jax.grad(loss))(*values())).count("([], [])")


def test_scan_equals_a_loop_over_layers():
    params, x = values()
    apply = jax.jit(lambda params, x: merged(params)(x))
    expected = x
    for layer in range(DEPTH):
        expected = apply(jax.tree.map(lambda value, layer=layer: value[layer], params), expected)
    scanned = jax.jit(lambda params, x: stack.run(merged(params), SCANNED, x))(params, x)
    assert above(relative_errors(scanned, expected), LAYER) == {}


def test_post_norm_normalises_the_sum():
    block = Block(BlockConfig(8, 2, 16, norm="post"), jax.random.key(0))
    y = jax.jit(block)(values()[1] * 7)
    assert np.allclose(jnp.mean(y, -1), 0, atol=LAYER)
    assert np.allclose(jnp.var(y, -1), 1, atol=1e-3)


def test_drop_path_rates_rise_from_zero():
    assert np.allclose(stack.drop_path_rates(SCANNED), [0, 0.3])
    assert stack.drop_path_rates(StackConfig(DEPTH)) is None
