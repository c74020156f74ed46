"""Norms, activations, pooling, stems and positions, each against numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from mmjax.nn import positions
from mmjax.nn.convolution import ConvUnit, convolve, max_pool
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.norm import BatchNorm, LayerNorm, l2_normalise
from mmjax.nn.parameter import num_parameters, storage_spec_of
from mmjax.nn.pooling import ConcatPool, MapPool, ProbeAttention, masked_mean, take_position
from mmjax.nn.stem import ConvStage, ConvStem, patches_of
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.nn.formulas import affine, apart
from tests.tolerances import LAYER, above, relative_errors


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_layer_norm():
    x = random(3, 16) * 5 + 2
    norm = LayerNorm(jax.random.key(0), 16, eps=1e-6)
    norm.scale[...], norm.bias[...] = jnp.full(16, 2.0), jnp.full(16, 1.0)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * 2 + 1
    assert np.allclose(norm(x), expected, rtol=LAYER, atol=LAYER)


def test_layer_norm_computes_in_float32():
    x = (random(3, 16) * 0.01 + 100).astype(jnp.bfloat16)
    norm = LayerNorm(jax.random.key(0), 16)
    assert norm(x).dtype == jnp.bfloat16
    assert np.array_equal(norm(x), norm(x.astype(np.float32)).astype(jnp.bfloat16))


@pytest.mark.parametrize(("num_axes", "shape"), [(1, (3, 5, 16)), (3, (2, 3, 4, 16))])
def test_layer_norm_has_the_slope_of_its_formula(num_axes, shape):
    x, cotangent = random(2, *shape)
    norm = LayerNorm(jax.random.key(0), 16, eps=1e-2, num_axes=num_axes)
    graph, state = nnx.split(norm)
    params = {"scale": random(16) + 2, "bias": random(16)}
    axes = tuple(range(-num_axes, 0))

    def formula(params, x):
        mean, variance = (function(x, axis=axes, keepdims=True) for function in (jnp.mean, jnp.var))
        return jnp.sum(cotangent * ((x - mean) / jnp.sqrt(variance + 1e-2) * params["scale"] + params["bias"]))

    def ours(params, x):
        filled = jax.tree.unflatten(jax.tree.structure(nnx.to_pure_dict(state)), jax.tree.leaves(params))
        return jnp.sum(cotangent * nnx.merge(graph, filled)(x))

    found, expected = (jax.grad(function, (0, 1))(params, x) for function in (ours, formula))
    assert above(relative_errors(found, expected), LAYER) == {}


def test_layer_norm_keeps_its_input_alone_for_the_gradient():
    x = random(2, 3, 16).astype(jnp.bfloat16)
    _, pullback = jax.vjp(LayerNorm(jax.random.key(0), 16), x)
    kept = [leaf for leaf in jax.tree.leaves(pullback) if np.shape(leaf) == x.shape]
    assert len(kept) == 1
    assert kept[0].dtype == x.dtype


def test_normalised_vectors_have_length_one_and_zero_stays_zero():
    x = np.concatenate([random(3, 4), np.zeros((1, 4), np.float32)])
    assert np.allclose(np.linalg.norm(l2_normalise(x), axis=1), [1, 1, 1, 0], atol=LAYER)
    assert np.isfinite(jax.grad(lambda x: jnp.sum(l2_normalise(x) ** 3))(x)).all()


def test_activations():
    x = np.linspace(-4, 4, 33)
    erf = np.asarray([math.erf(value / math.sqrt(2)) for value in x])
    expected = {
        "gelu": x * (1 + erf) / 2,
        "gelu_tanh": x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
        "quick_gelu": x / (1 + np.exp(-1.702 * x)),
        "relu": np.maximum(x, 0),
    }
    assert expected.keys() == ACTIVATIONS.keys()
    for name, values in expected.items():
        assert np.allclose(ACTIVATIONS[name](x.astype(np.float32)), values, atol=LAYER), name


def slope_of_gelu(x):
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray([(1 + math.erf(value / math.sqrt(2))) / 2 for value in x]) + x * density


def slope_of_gelu_tanh(x):
    with jax.enable_x64():
        return np.asarray(jax.vmap(jax.grad(jax.nn.gelu))(x))


@pytest.mark.parametrize(("name", "expected"), [("gelu", slope_of_gelu), ("gelu_tanh", slope_of_gelu_tanh)])
def test_gelu_has_the_slope_of_its_formula_and_computes_in_float32(name, expected):
    x = np.linspace(-4, 4, 33)
    slope = jax.vmap(jax.grad(ACTIVATIONS[name]))
    assert np.allclose(slope(x.astype(np.float32)), expected(x), atol=LAYER)
    coarse = x.astype(jnp.bfloat16)
    for function in (ACTIVATIONS[name], slope):
        assert np.array_equal(function(coarse), function(coarse.astype(np.float32)).astype(jnp.bfloat16))


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "quick_gelu"])
def test_activations_keep_their_input_alone_for_the_gradient(name):
    x = random(2, 3).astype(jnp.bfloat16)
    _, pullback = jax.vjp(ACTIVATIONS[name], x)
    kept = [leaf for leaf in jax.tree.leaves(pullback) if np.size(leaf) > 1]
    assert len(kept) == 1
    assert kept[0].dtype == x.dtype
    assert np.array_equal(kept[0], x)


def test_take_position_ignores_the_others():
    x = random(2, 3, 4)
    x[0, 0] = np.nan
    assert np.array_equal(take_position(x, jnp.asarray([2, 0])), x[[0, 1], [2, 0]])
    assert np.array_equal(take_position(x, 2), x[:, 2])


def test_masked_mean():
    x, mask = random(2, 3, 4), np.asarray([[True, False, True], [False] * 3])
    assert np.allclose(masked_mean(x, mask), np.stack([x[0, [0, 2]].mean(0), np.zeros(4)]), atol=LAYER)


@pytest.mark.parametrize("masked", [False, True])
def test_a_probe_reads_what_keys_and_values_of_all_positions_give(masked):
    """Its formula as it is written, in float64."""
    attention, query, x = ProbeAttention(jax.random.key(0), 12, 3), random(12), random(2, 5, 12)
    mask = np.asarray([[True, False, True, True, False], [True] * 5]) if masked else None
    params = jax.tree.map(lambda leaf: random(*leaf.shape), nnx.to_pure_dict(nnx.state(attention)))
    nnx.update(attention, params)
    wide = jax.tree.map(np.float64, params)
    queries = apart(affine(wide["query"], np.float64(query)), 3)
    keys, values = (apart(affine(wide[side], x), 3) for side in ("key", "value"))
    scores = np.einsum("nh,btnh->bnt", queries, keys) / math.sqrt(4)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True)) * (1 if mask is None else mask[:, None])
    read = np.einsum("bnt,btnh->bnh", weights / weights.sum(axis=-1, keepdims=True), values)
    expected = affine(wide["out"], read.reshape(2, -1))
    assert np.allclose(jax.jit(attention)(query, x, mask), expected, rtol=LAYER, atol=10 * LAYER)


def test_map_pool_does_not_see_what_is_masked():
    x, mask = random(2, 3, 8), np.asarray([[True, True, False]] * 2)
    pool = MapPool(jax.random.key(0), 8, 2, 16, activation="gelu")
    assert np.allclose(jax.jit(pool)(x, mask), jax.jit(pool)(x[:, :2]), atol=LAYER)


def test_patches_are_squares_row_by_row_and_the_rest_is_left_out():
    image = random(2, 5, 7, 3)
    patches = patches_of(jnp.asarray(image), 2)
    assert patches.shape == (2, 6, 12)
    assert np.array_equal(patches[1, 4], image[1, 2:4, 2:4].reshape(-1))


@pytest.mark.parametrize(("size", "channels"), [(3, 3), (3, 4), (1, 4), (7, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_and_its_gradients(size, channels, stride):
    features, kernel = random(2, 5, 4, channels), random(size, size, channels, 5)
    around = (size // 2, size // 2)
    padded = np.pad(features, ((0, 0), around, around, (0, 0)))
    expected = np.zeros((2, -(-5 // stride), -(-4 // stride), 5))
    for y, x in np.ndindex(*expected.shape[1:3]):
        seen = padded[:, stride * y : stride * y + size, stride * x : stride * x + size]
        expected[:, y, x] = np.einsum("byxc,yxcz->bz", seen, kernel)
    assert np.allclose(jax.jit(convolve, static_argnums=2)(features, kernel, stride), expected, atol=LAYER)
    check_grads(lambda *args: convolve(*args, stride), (features, kernel), order=1, modes=["rev"], rtol=1e-2)


def test_max_pool_takes_the_largest_around_every_other_pixel():
    features = random(2, 5, 4, 3)
    pooled = np.asarray(max_pool(jnp.asarray(features)))
    assert pooled.shape == (2, 3, 2, 3)
    for y, x in np.ndindex(3, 2):
        seen = features[:, max(2 * y - 1, 0) : 2 * y + 2, max(2 * x - 1, 0) : 2 * x + 2]
        assert np.array_equal(pooled[:, y, x], seen.max((1, 2)))


def test_convolutional_stem_gives_one_token_a_patch():
    def channels_and_tokens(image: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        stem = ConvStem(jax.random.key(0), 8, 32, activation="gelu")
        return [stage.down.kernel[...] for stage in stem.stages], stem(image)

    kernels, tokens = jax.eval_shape(channels_and_tokens, random(2, 16, 24, 3))
    assert [kernel.shape for kernel in kernels] == [(3, 3, 3, 8), (3, 3, 8, 16), (3, 3, 16, 32)]
    assert tokens.shape == (2, 6, 32)


def test_convolutional_unit_normalises_over_places_and_channels():
    unit = ConvUnit(jax.random.key(0), 3, 4, stride=2, activation="gelu", norm="group")
    features = random(2, 6, 4, 3)
    found = np.asarray(convolve(features, unit.kernel[...], 2), np.float64)
    centred = found - found.mean((1, 2, 3), keepdims=True)
    normed = centred / np.sqrt((centred**2).mean((1, 2, 3), keepdims=True) + 1e-6)
    expected = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in normed.ravel()]
    assert np.allclose(np.ravel(unit(features)), expected, atol=LAYER)


def test_convolutional_stage_adds_its_residual_units():
    stage = ConvStage(jax.random.key(0), 3, 4, activation="gelu", num_residual=2)
    x = stage.down(random(2, 6, 4, 3))
    first, second = stage.residual
    x = x + first(x)
    assert np.allclose(stage(random(2, 6, 4, 3)), x + second(x), atol=LAYER)


def test_batch_norm_takes_the_batch_in_training_and_running_statistics_otherwise():
    x, norm = random(5, 4, 3, 6), BatchNorm(jax.random.key(0), 6)
    norm.scale[...], norm.bias[...] = random(6), random(6)
    norm.running_mean[...], norm.running_variance[...] = random(6), np.square(random(6))
    wide = np.asarray(x, np.float64)
    seen = {True: (wide.mean((0, 1, 2)), wide.var((0, 1, 2))), False: (random(6), np.square(random(6)))}
    for training, (mean, variance) in seen.items():
        expected = (wide - mean) / np.sqrt(variance + norm.eps) * random(6) + random(6)
        assert np.allclose(norm(x, training=training), expected, atol=LAYER)


def test_running_statistics_are_pulled_towards_the_batch_and_pull_on_nothing():
    x, norm = random(5, 4, 3, 6), BatchNorm(jax.random.key(0), 6)
    graph, state = nnx.split(norm)

    def loss(state: nnx.State, x: jax.Array) -> jax.Array:
        return jnp.sum(nnx.merge(graph, state)(x, training=True) * random(5, 4, 3, 6) ** 2)

    by_state, by_x = jax.grad(loss, argnums=(0, 1))(state, x)
    assert np.allclose(by_state["running_mean"][...], 0 - x.mean((0, 1, 2)), atol=LAYER)
    assert np.allclose(by_state["running_variance"][...], 1 - x.var((0, 1, 2)), atol=LAYER)
    step = 1e-2 * random(5, 4, 3, 6)[::-1]
    difference = (loss(state, x + step) - loss(state, x - step)) / 2
    assert difference == pytest.approx(float(np.sum(by_x * step)), rel=1e-2)


def test_running_statistics_are_not_counted_as_learned():
    assert num_parameters(BatchNorm(jax.random.key(0), 6)) == 12


def test_concat_pool_gives_each_place_its_own_matrix():
    pool = ConcatPool(jax.random.key(0), 3, 4)
    x = jnp.asarray(random(2, 3, 4))
    kernel = np.asarray(pool.projection.kernel[...], np.float64)
    expected = sum(np.asarray(x[:, place], np.float64) @ kernel[4 * place : 4 * (place + 1)] for place in range(3))
    assert np.allclose(pool(x), expected, atol=LAYER)


def test_positions_side_by_side_that_are_split_in_storage_are_read_in_their_order():
    x, pool = jnp.asarray(random(4, 3, 8)), ConcatPool(jax.random.key(0), 3, 8)
    expected = pool(x)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        place = storage_spec_of(pool.projection.kernel, mesh)
        assert place[0] == "fsdp"
        stored = jax.device_put(pool.projection.kernel[...], jax.NamedSharding(mesh, place))
        pool.projection.kernel = pool.projection.kernel.replace(stored)
        spread = jax.device_put(x, rules.batch_sharding(mesh))
        assert np.allclose(jax.jit(pool)(spread), expected, atol=LAYER)


def test_norm_over_all_axes_is_group_norm_of_one_group():
    x, norm = random(2, 5, 4, 6), LayerNorm(jax.random.key(0), 6, num_axes=3)
    norm.scale[...], norm.bias[...] = random(6), random(6)
    wide = np.asarray(x, np.float64)
    centred = wide - wide.mean((1, 2, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((1, 2, 3), keepdims=True) + norm.eps)
    assert np.allclose(norm(x), expected * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...]), atol=LAYER)


def test_sincos_positions_are_distinct_and_separate_the_axes():
    table = positions.sincos_2d((3, 4), 16)
    assert table.shape == (12, 16)
    assert len(np.unique(table.round(4), axis=0)) == 12
    grid = table.reshape(3, 4, 16)
    assert np.allclose(grid[0, :, :8], grid[2, :, :8])
    assert np.allclose(grid[:, 0, 8:], grid[:, 3, 8:])
    assert grid[1, 2, 0] == pytest.approx(math.sin(2), rel=LAYER)


def test_resized_positions_keep_the_class_token_and_a_plane():
    """A plane is reproduced by linear interpolation away from the border."""
    rows = np.mgrid[:4, :4].sum(0).reshape(-1, 1).astype(np.float32)
    table = np.concatenate([[[9.0]], rows]).astype(np.float32)
    resized = positions.resize(table, (4, 4), (8, 8), num_prefix=1, method="linear")
    assert resized[0] == 9
    inner = resized[1:].reshape(8, 8)[1:7, 1:7]
    expected = np.mgrid[:8, :8].sum(0)[1:7, 1:7] / 2 - 0.5
    assert np.allclose(inner, expected, atol=LAYER)
    assert positions.resize(table, (4, 4), (4, 4), num_prefix=1) is not None
