"""The kernel of short attention against a direct float64 evaluation of its formula, interpreted on CPU."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn import short_attention
from mmjax.nn.attention import causal_mask, source_mask
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.tolerances import LAYER

NUM_ROWS, NUM_HEADS = 4, 4
RNG = np.random.default_rng(0)
MASKS = {
    "none": lambda num_queries, num_keys: None,
    "keys": lambda num_queries, num_keys: source_mask(jnp.asarray(RNG.random((NUM_ROWS, num_keys)) < 0.6)),
    "same keys": lambda num_queries, num_keys: source_mask(jnp.arange(num_keys)[None] < num_keys - 3),
    "causal": lambda num_queries, num_keys: causal_mask(num_keys),
}


class Sides(NamedTuple):
    """Something of queries, keys and values."""

    queries: Any
    keys: Any
    values: Any


def sides(num_queries: int, num_keys: int, head_dim: int) -> Sides:
    def drawn(length: int) -> jax.Array:
        return jnp.asarray(RNG.normal(size=(NUM_ROWS, length, NUM_HEADS, head_dim)), jnp.float32)

    return Sides(drawn(num_queries), drawn(num_keys), drawn(num_keys))


def biases(head_dim: int) -> Sides:
    return Sides(*(jnp.asarray(RNG.normal(size=(NUM_HEADS, head_dim)), jnp.float32) for _ in range(3)))


def by_formula(given: Sides, added: Sides, mask: Any) -> Any:
    """softmax(q k^T / sqrt(h)) v; the biases take part, as in a layer."""
    queries, keys, values = (side + bias for side, bias in zip(given, added, strict=True))
    scores = jnp.einsum("btnh,bsnh->bnts", queries, keys) / np.sqrt(queries.shape[-1])
    scores = scores if mask is None else jnp.where(mask, scores, -1e30)
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores, axis=-1), values)


def by_kernel(given: Sides, added: Sides, mask: Any, groups: tuple[int, ...] = (1, 1, 1)) -> Any:
    """Heads side by side; `groups` says how many of the sides lie side by side in one array."""
    head_dim = given.queries.shape[-1]
    whole = [flat(side + jax.lax.stop_gradient(bias)) for side, bias in zip(given, added, strict=True)]
    starts = np.cumsum((0, *groups))[:-1]
    together = [
        [jnp.concatenate(parts[start : start + count], axis=-1) for start, count in zip(starts, groups, strict=True)]
        for parts in (whole, [bias.reshape(-1) for bias in added])
    ]
    read = short_attention.attend(*together, mask, head_dim, interpret=True)
    return read.reshape(given.queries.shape, out_sharding=short_attention.rules.spec("btnh"))


def flat(side: jax.Array) -> jax.Array:
    return side.reshape(*side.shape[:2], -1, out_sharding=short_attention.rules.spec("btn"))


def pulled(function: Any, given: Sides, added: Sides, mask: Any, cotangent: Any) -> Any:
    read, pull = jax.vjp(lambda given, added: function(given, added, mask), given, added)
    return read, pull(cotangent)


def expected(given: Sides, added: Sides, mask: Any, cotangent: Any) -> Any:
    with jax.enable_x64():
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), (given, added))
        return jax.device_get(pulled(by_formula, *wide, mask, jnp.asarray(np.asarray(cotangent), jnp.float64)))


CASES = [
    *((mask, *sizes) for mask in ("none", "keys", "same keys") for sizes in ((12, 12, 64), (9, 14, 32), (8, 8, 128))),
    *(("causal", length, length, head_dim) for length, head_dim in ((12, 64), (8, 128))),
    ("none", 8, 8, 96),
]
"""Mask, queries, keys and numbers of a head; of heads of 96 four fill three registers."""


@pytest.mark.parametrize(("mask", "num_queries", "num_keys", "head_dim"), CASES)
def test_value_and_gradients_are_those_of_the_formula(
    mask: str, num_queries: int, num_keys: int, head_dim: int
) -> None:
    given, added = sides(num_queries, num_keys, head_dim), biases(head_dim)
    seen = MASKS[mask](num_queries, num_keys)
    cotangent = jnp.asarray(RNG.normal(size=given.queries.shape), jnp.float32)
    found = pulled(by_kernel, given, added, seen, cotangent)
    for ours, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected(given, added, seen, cotangent)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=LAYER, atol=10 * LAYER)


@pytest.mark.parametrize(("num_queries", "num_keys", "groups"), [(9, 14, (1, 2)), (12, 12, (3,))])
@pytest.mark.parametrize("mask", ["none", "keys"])
def test_sides_side_by_side_give_the_same(mask: str, num_queries: int, num_keys: int, groups: tuple[int, ...]) -> None:
    given, added = sides(num_queries, num_keys, 64), biases(64)
    seen = MASKS[mask](num_queries, num_keys)
    cotangent = jnp.asarray(RNG.normal(size=given.queries.shape), jnp.float32)
    apart = pulled(by_kernel, given, added, seen, cotangent)
    together = pulled(lambda *args: by_kernel(*args, groups), given, added, seen, cotangent)
    assert jax.tree.all(jax.tree.map(np.array_equal, together, apart))


@pytest.mark.parametrize("mask", ["none", "keys"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 2)])
def test_keys_that_are_values_are_given_once(mask: str, sizes: tuple[int, int, int]) -> None:
    """One head over the whole width, which is not split; its gradient is that of keys and of values."""
    queries, keys = (jnp.asarray(RNG.normal(size=(NUM_ROWS, length, 128)), jnp.float32) for length in (16, 14))
    seen = MASKS[mask](16, 14)
    cotangent = jnp.asarray(RNG.normal(size=queries.shape), jnp.float32)
    zeros = Sides(*[jnp.zeros((1, 128))] * 3)
    read, (by_sides, _) = expected(
        Sides(*(side[:, :, None] for side in (queries, keys, keys))), zeros, seen, cotangent[:, :, None]
    )
    correct = read[:, :, 0], by_sides.queries[:, :, 0], (by_sides.keys + by_sides.values)[:, :, 0]

    def attend(queries: jax.Array, keys: jax.Array) -> jax.Array:
        placed = None if seen is None else jax.device_put(seen, short_attention.rules.spec("boos"))
        return short_attention.attend((queries, keys), (), placed, 128, letter="d", interpret=True)

    with jax.set_mesh(make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])):
        rows = short_attention.rules.spec("btd")
        queries, keys, cotangent = (jax.device_put(side, rows) for side in (queries, keys, cotangent))
        found, pull = jax.vjp(attend, queries, keys)
        for ours, theirs in zip((found, *pull(cotangent)), correct, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=LAYER, atol=10 * LAYER)


def test_a_query_that_sees_nothing_reads_the_mean() -> None:
    given, nothing = sides(8, 8, 64), Sides(*[jnp.zeros((NUM_HEADS, 64))] * 3)
    read = by_kernel(given, nothing, jnp.zeros((1, 1, 1, 8), bool))
    mean = np.broadcast_to(np.mean(given.values, axis=1, keepdims=True), read.shape)
    np.testing.assert_allclose(read, mean, rtol=LAYER, atol=LAYER)


@pytest.mark.parametrize("sizes", [(4, 1, 1), (2, 2, 2), (1, 2, 2)])
def test_on_a_mesh_it_is_the_same(sizes: tuple[int, int, int]) -> None:
    given, added = sides(8, 8, 64), biases(64)
    mask = source_mask(jnp.asarray(RNG.random((NUM_ROWS, 8)) < 0.6))
    cotangent = jnp.asarray(RNG.normal(size=given.queries.shape), jnp.float32)
    alone = pulled(by_kernel, given, added, mask, cotangent)
    with jax.set_mesh(make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])):
        place = short_attention.rules.spec
        rows, flat = place("btnh"), place("nh")
        spread = (
            Sides(*(jax.device_put(side, rows) for side in given)),
            Sides(*(jax.device_put(bias, flat) for bias in added)),
            jax.device_put(mask, place("boos")),
            jax.device_put(cotangent, rows),
        )
        together = jax.device_get(jax.jit(lambda *args: pulled(by_kernel, *args))(*spread))
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=LAYER, atol=LAYER)
