"""Attention against a float64 loop, and its masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

from mmjax.nn import attention as attention_module
from mmjax.nn.attention import Attention, attention_shares, causal_mask, source_mask
from tests.tolerances import LAYER, above, relative_errors

WIDTH, HEADS = 8, 2


def reference(params, x, source, mask):
    """One example and one head at a time, in float64."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    out = np.zeros(x.shape)
    for b in range(x.shape[0]):
        for n in np.split(np.arange(WIDTH), HEADS):
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
    attention.query.bias[...] = jnp.asarray(rng.normal(size=WIDTH))
    given = jnp.asarray(mask)[None, None] if masked else None
    ours = jax.jit(attention)(x.astype(np.float32), source.astype(np.float32), given)
    expected = reference(nnx.to_pure_dict(nnx.state(attention)), x, source, mask)
    assert above(relative_errors(ours, expected), LAYER) == {}


@pytest.mark.parametrize("masked", [False, True])
def test_halves_of_the_batch_are_the_whole(masked, monkeypatch):
    """Value and gradients, of an odd number of rows; of one mask for all rows, and of one for each."""
    rng = np.random.default_rng(0)
    x, source = (rng.normal(size=(3, length, WIDTH)).astype(np.float32) for length in (5, 7))
    mask = rng.random((3, 1, 1, 7)) < 0.7 if masked else np.tril(np.ones((1, 1, 5, 7), bool))
    attention, attend = Attention(jax.random.key(0), WIDTH, HEADS), attention_module._attend
    graph, params = nnx.graphdef(attention), nnx.to_pure_dict(nnx.state(attention))

    def found():
        def loss(params, x, source):
            return jnp.sum(jnp.sin(nnx.merge(graph, params)(x, source, mask)))

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(params, x, source)

    whole, sizes = found(), []
    monkeypatch.setattr(attention_module, "MANY_SCORES", 1)
    monkeypatch.setattr(attention_module, "_attend", lambda *given: sizes.append(len(given[0])) or attend(*given))
    assert above(relative_errors(found(), whole), LAYER) == {}
    assert sizes == [1, 2]


@pytest.mark.parametrize(
    ("num_devices", "platform", "halves"), [(1, "cpu", True), (8, "cpu", False), (1, "tpu", False)]
)
def test_only_one_cpu_computes_in_halves(num_devices, platform, halves):
    x = np.zeros((2, 128, 1, 1))
    device = AbstractDevice(platform, 1, platform)
    with use_abstract_mesh(AbstractMesh((num_devices,), ("data",), (AxisType.Explicit,), abstract_device=device)):
        assert attention_module._gains_by_halves(x, x) is halves
        assert not attention_module._gains_by_halves(x[:1], x[:1])
        assert not attention_module._gains_by_halves(x[:, :64], x)


def test_dropout_of_long_sequences_is_of_the_whole_batch(monkeypatch):
    """Not the same entries of both halves."""
    x = jnp.ones((4, 3, WIDTH))
    attention = Attention(jax.random.key(0), WIDTH, HEADS, dropout_rate=0.5)
    whole = attention(x, key=jax.random.key(1))
    monkeypatch.setattr(attention_module, "MANY_SCORES", 1)
    np.testing.assert_array_equal(attention(x, key=jax.random.key(1)), whole)


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
