"""Attention against a float64 loop, and its masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.nn.attention import Attention, attention_shares, causal_mask, source_mask
from tests.tolerances import LAYER, above, relative_errors

WIDTH, HEADS = 8, 2


def reference(params, x, source, mask):
    """One example and one head at a time, in float64."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    out = np.zeros(x.shape)
    for b in range(x.shape[0]):
        for n in range(HEADS):
            q, k, v = (
                rows[b] @ p[name]["kernel"][:, n] + p[name]["bias"][n]
                for rows, name in ((x, "query"), (source, "key"), (source, "value"))
            )
            shares = np.where(mask, np.exp(q @ k.T / np.sqrt(WIDTH // HEADS)), 0)
            out[b] += shares / shares.sum(-1, keepdims=True) @ v @ p["out"]["kernel"][n]
    return out + p["out"]["bias"]


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_the_reference(masked):
    rng = np.random.default_rng(0)
    x, source = rng.normal(size=(2, 3, WIDTH)), rng.normal(size=(2, 5, WIDTH))
    mask = rng.random((3, 5)) < 0.7 if masked else np.ones((3, 5), bool)
    attention = Attention(jax.random.key(0), WIDTH, HEADS)
    attention.query.bias[...] = jnp.asarray(rng.normal(size=(HEADS, WIDTH // HEADS)))
    given = jnp.asarray(mask)[None, None] if masked else None
    ours = jax.jit(attention)(x.astype(np.float32), source.astype(np.float32), given)
    expected = reference(nnx.to_pure_dict(nnx.state(attention)), x, source, mask)
    assert above(relative_errors(ours, expected), LAYER) == {}


def test_shares_have_the_slope_of_a_softmax_and_alone_are_kept_for_it():
    queries, keys = np.random.default_rng(0).normal(size=(2, 2, 3, HEADS, 4)).astype(np.float32)
    mask, cotangent = source_mask(jnp.asarray([[True, True, False], [True, False, True]])), jnp.cos(jnp.arange(36.0))
    cotangent = cotangent.reshape(2, HEADS, 3, 3)

    def ours(queries, keys):
        return jnp.sum(cotangent * attention_shares(queries, keys, mask))

    def formula(queries, keys):
        weights = jnp.where(mask, jnp.exp(jnp.einsum("btnh,bsnh->bnts", queries, keys) / 2), 0)
        return jnp.sum(cotangent * weights / jnp.sum(weights, axis=-1, keepdims=True))

    found, expected = (jax.grad(function, (0, 1))(queries, keys) for function in (ours, formula))
    assert above(relative_errors(found, expected), LAYER) == {}
    halves = [x.astype(jnp.bfloat16) for x in (queries, keys)]
    _, pullback = jax.vjp(attention_shares, *halves)
    kept = [leaf for leaf in jax.tree.leaves(pullback) if np.shape(leaf) == cotangent.shape]
    assert len(kept) == 1
    assert kept[0].dtype == jnp.bfloat16


def test_a_causal_token_does_not_see_what_follows():
    x = np.random.default_rng(0).normal(size=(1, 4, WIDTH)).astype(np.float32)
    changed = x.copy()
    changed[:, 2:] += 1
    attention = Attention(jax.random.key(0), WIDTH, HEADS)
    before, after = (np.asarray(jax.jit(attention)(y, mask=causal_mask(4))) for y in (x, changed))
    assert np.array_equal(before[:, :2], after[:, :2])
    assert not np.allclose(before[:, 2:], after[:, 2:])


def test_a_row_without_any_source_is_uniform():
    queries = jnp.ones((1, 2, 1, 4))
    shares = attention_shares(queries, queries, source_mask(jnp.zeros((1, 2), bool)))
    assert np.allclose(shares, 0.5)


def test_bfloat16_in_bfloat16_out():
    attention = jax.jit(Attention(jax.random.key(0), WIDTH, HEADS, qk_norm=True))
    x = np.random.default_rng(0).normal(size=(2, 4, WIDTH)).astype(np.float32)
    half = attention(jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    assert np.allclose(half.astype(jnp.float32), attention(x), atol=0.05)
