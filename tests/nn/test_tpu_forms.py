"""What layers do on TPU alone gives what they give elsewhere: rows in place of positions, whole tiles, one kernel."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from mmjax.nn import short_attention
from mmjax.nn.attention import Attention, source_mask
from mmjax.nn.norm import LayerNorm
from mmjax.nn.parameter import storage_spec_of
from mmjax.nn.pooling import MapPool
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.tolerances import BFLOAT16, LAYER, above, relative_errors

IMAGE = ViTConfig(image_size=12, patch_size=4, width=16, depth=2, mlp_dim=24, num_heads=2)
TEXT = TextConfig(vocab_size=50, context_len=8, width=16, depth=2, mlp_dim=24, num_heads=2, use_mask=True)
RNG = np.random.default_rng(0)


@pytest.fixture
def on_tpu(monkeypatch):
    """Layers take the form that they have on TPU; the products are those of the CPU."""
    return functools.partial(monkeypatch.setattr, rules, "runs_on_tpu", lambda: True)


def value_and_gradients(config, *inputs):
    graph, state = nnx.split(config.build(jax.random.key(0)))

    def loss(params):
        features, extras = nnx.merge(graph, params)(*inputs)
        return jnp.sum(jnp.sin(features)) + jnp.sum(jnp.cos(extras["tokens"])), features

    (_, features), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(nnx.to_pure_dict(state))
    return features, grads


@pytest.mark.parametrize("pool", ["map", "mean", "cls", "concat"])
def test_an_image_tower_of_whole_tiles_is_the_same(pool, on_tpu):
    """Nine patches, or ten tokens, are filled up to sixteen."""
    config = replace(IMAGE, pool=pool)
    image = jnp.asarray(RNG.integers(0, 256, (3, 12, 12, 3)), jnp.uint8)
    plain = value_and_gradients(config, image)
    on_tpu()
    assert above(relative_errors(value_and_gradients(config, image), plain), LAYER) == {}


def test_it_is_on_a_mesh_too(on_tpu):
    image = jnp.asarray(RNG.integers(0, 256, (4, 12, 12, 3)), jnp.uint8)
    plain = value_and_gradients(IMAGE, image)
    on_tpu()
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        spread = jax.device_get(value_and_gradients(IMAGE, jax.device_put(image, rules.batch_sharding(mesh))))
    assert above(relative_errors(spread, plain), LAYER) == {}


def test_a_text_tower_on_rows_is_the_same(on_tpu):
    text_ids = jnp.asarray(RNG.integers(0, 50, (3, 8)))
    text_mask = jnp.arange(8)[None] < jnp.asarray([[3], [8], [5]])
    plain = value_and_gradients(TEXT, text_ids, text_mask)
    on_tpu()
    assert above(relative_errors(value_and_gradients(TEXT, text_ids, text_mask), plain), LAYER) == {}


def test_what_is_dropped_stays_the_same(on_tpu):
    """With dropout a layer keeps its positions, and draws for them what it drew."""
    config = replace(TEXT, dropout_rate=0.3, drop_path_rate=0.2)
    inputs = jnp.asarray(RNG.integers(0, 50, (3, 8))), jnp.ones((3, 8), bool), jax.random.key(1)
    plain = value_and_gradients(config, *inputs)
    on_tpu()
    assert above(relative_errors(value_and_gradients(config, *inputs), plain), LAYER) == {}


@pytest.fixture
def with_kernel(monkeypatch):
    """Attention takes the kernel, interpreted; gives the calls that it got."""
    attend, calls = short_attention.attend, []

    def interpreted(*args, **options):
        calls.append(args)
        return attend(*args, **options, interpret=True)

    def start():
        monkeypatch.setattr(short_attention, "fits", lambda *args, **options: True)
        monkeypatch.setattr(short_attention, "attend", interpreted)
        return calls

    return start


def attention_and_gradients(attention, *inputs):
    graph, state = nnx.split(attention)

    def loss(params, x, source, mask):
        return jnp.sum(jnp.sin(nnx.merge(graph, params)(x, source, mask)))

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(nnx.to_pure_dict(state), *inputs)


def is_parameter(leaf):
    return isinstance(leaf, nnx.Variable)


def as_stored(param, mesh):
    place = storage_spec_of(param, mesh)
    return param.replace(jax.device_put(param[...], jax.NamedSharding(mesh, place)))


def attention_of(num_heads):
    attention = Attention(jax.random.key(0), 128, num_heads)
    for linear in (attention.query, attention.key, attention.value):
        linear.bias[...] = jnp.asarray(RNG.normal(size=linear.bias.shape), jnp.float32)
    return attention


def unlike(found, expected):
    """Where they differ. The gradient of the key bias is zero but for rounding: a softmax does not see what is added
    to all scores of a query."""
    errors = relative_errors(found, expected)
    return above({path: error for path, error in errors.items() if "key/bias" not in path}, LAYER)


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_with_the_kernel_is_the_same(masked, crossed, with_kernel):
    x, other = (jnp.asarray(RNG.normal(size=(2, 8, 128)), jnp.float32) for _ in range(2))
    source = other if crossed else None
    mask = source_mask(jnp.asarray([[True] * 5 + [False] * 3, [True] * 8])) if masked else None
    attention = attention_of(2)
    plain = attention_and_gradients(attention, x, source, mask)
    calls = with_kernel()
    assert unlike(attention_and_gradients(attention, x, source, mask), plain) == {}
    assert [len(sides) for sides, *_ in calls] == [2 if crossed else 1]


@pytest.mark.parametrize("stored", [False, True])
def test_it_is_with_heads_split_over_devices_too(stored, with_kernel):
    """What is joined on each device is taken apart there, be the parameters whole or as they are stored."""
    x = jnp.asarray(RNG.normal(size=(4, 8, 128)), jnp.float32)
    attention = attention_of(4)
    plain = attention_and_gradients(attention, x, None, None)
    with_kernel()
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        if stored:
            stored_as = functools.partial(as_stored, mesh=mesh)
            nnx.update(attention, jax.tree.map(stored_as, nnx.state(attention), is_leaf=is_parameter))
        spread = jax.device_put(x, rules.batch_sharding(mesh))
        found = jax.device_get(attention_and_gradients(attention, spread, None, None))
    assert unlike(found, plain) == {}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 2)])
def test_a_probe_with_the_kernel_is_the_same(masked, sizes, with_kernel, on_tpu):
    x = jnp.asarray(RNG.normal(size=(4, 8, 128)), jnp.float32)
    mask = jnp.arange(8)[None] < jnp.asarray([[3], [8], [5], [1]]) if masked else None
    graph, state = nnx.split(MapPool(jax.random.key(0), 128, 4, 8, activation="gelu"))

    def pooled(params, x, mask):
        return jnp.sum(jnp.sin(nnx.merge(graph, params)(x, mask)))

    gradients = jax.value_and_grad(pooled, (0, 1))
    plain = jax.jit(gradients)(nnx.to_pure_dict(state), x, mask)
    calls = with_kernel()
    on_tpu()
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])
    with jax.set_mesh(mesh):
        x, mask = (None if each is None else jax.device_put(each, rules.batch_sharding(mesh)) for each in (x, mask))
        found = jax.device_get(jax.jit(gradients)(nnx.to_pure_dict(state), x, mask))
    assert unlike(found, plain) == {}
    assert [[side.shape[1] for side in sides] for sides, *_ in calls] == [[16, 8]]


def test_the_kernel_is_for_what_it_can_do(on_tpu):
    x = jnp.zeros((2, 200, 768), jnp.bfloat16)
    fits = functools.partial(short_attention.fits, x, x, None, 12, 64)
    assert not fits()
    on_tpu()
    kinds = {"kind": "TPU v5 lite"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "device_kind", lambda mesh: kinds["kind"])
        assert fits()
        assert not short_attention.fits(x.astype(jnp.float32), x, None, 12, 64)
        assert not short_attention.fits(x[:, :1], x, None, 12, 64), "one query fills no register"
        assert not short_attention.fits(x, x, None, 3, 64), "heads do not fill the registers"
        assert not short_attention.fits(x, x, jnp.ones((2, 12, 1, 200), bool), 12, 64), "a mask of each head"
        with jax.set_mesh(make_mesh(MeshConfig(2, 2, 2))):
            wide = short_attention.fits, x, x, None, 1, 128
            assert not functools.partial(*wide)(), "half a head"
            assert functools.partial(*wide, letter="d")(), "a head that is whole on each device"
        long = jnp.zeros((1, 4096, 768), jnp.bfloat16)
        assert not short_attention.fits(long, long, None, 12, 64), "scores fill the fast memory"
        kinds["kind"] = "TPU v4"
        middle = jnp.zeros((1, 400, 1024), jnp.bfloat16)
        assert not short_attention.fits(middle, middle, None, 16, 64), "which is smaller there"


@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0])
def test_a_norm_in_one_pass_is_as_good_as_bfloat16(mean, on_tpu):
    norm = LayerNorm(jax.random.key(0), 64)
    x = jnp.asarray(RNG.normal(mean, 1.0, (8, 64)), jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    on_tpu()
    assert above(relative_errors(norm(x).astype(jnp.float32), expected), BFLOAT16) == {}
