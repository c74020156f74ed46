"""The trunk of two streams: its co-attention against the formula, and what must not change a result."""

import functools
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from mmjax.errors import UserError
from mmjax.models.fusion import trunks
from mmjax.nn.bimodal import Group, Layer, Masks, Streams, Trunk, TrunkConfig, grouped
from mmjax.nn.block import BlockConfig
from mmjax.nn.stack import ALL
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training.state import model_spec
from tests.nn.formulas import attended, normed
from tests.tolerances import LAYER, above, relative_errors

TEXT = BlockConfig(width=16, num_heads=2, mlp_dim=24, norm="post")
IMAGE = BlockConfig(width=24, num_heads=4, mlp_dim=32, norm="post")
CONNECTION = Layer(text="image", image="text", inner_width=32, num_heads=4)
VILBERT = TrunkConfig(TEXT, IMAGE, trunks.vilbert(2, 2, (0, 1), (0, 1), 32, 4))
UNITER = TrunkConfig(TEXT, TEXT, trunks.single_stream(2))
LXMERT = TrunkConfig(TEXT, TEXT, trunks.lxmert(1, 1, 2))
CONFIGS = {"vilbert": VILBERT, "uniter": UNITER, "lxmert": LXMERT}


def inputs(config: TrunkConfig) -> tuple[Streams, Masks]:
    rng = np.random.default_rng(0)
    lengths = {"text": (5, rng.integers(1, 6, 8)), "image": (7, rng.integers(1, 8, 8))}
    masks = Masks(*(np.arange(length) < real[:, None] for length, real in lengths.values()))
    widths = (config.text.width, config.image.width)
    shapes = zip((5, 7), widths, strict=True)
    return Streams(*(rng.normal(size=(8, *shape)).astype(np.float32) for shape in shapes)), masks


def build(config: TrunkConfig) -> Trunk:
    return Trunk(config, jax.random.key(0))


@functools.cache
def params_of(groups: tuple[Group, ...], text: BlockConfig, image: BlockConfig) -> Any:
    config = TrunkConfig(text, image, groups)
    state = jax.device_get(jax.jit(lambda: nnx.to_pure_dict(nnx.state(build(config))))())
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda array: array + 0.1 * rng.normal(size=array.shape).astype(np.float32), state)


def value_and_grads(config: TrunkConfig, params: Any, streams: Streams, masks: Masks) -> Any:
    """Of a function of all real tokens."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: build(config)))

    def loss(params: Any, streams: Streams) -> Any:
        found = nnx.merge(graph, params)(streams, masks)
        return sum(jnp.mean(jnp.sin(x) * mask[..., None]) for x, mask in zip(found, masks, strict=True))

    return jax.device_get(jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, streams))


@functools.cache
def on_one_device(name: str) -> Any:
    config = CONFIGS[name]
    return value_and_grads(config, params_of(config.groups, config.text, config.image), *inputs(config))


def test_how_it_is_run_changes_nothing():
    params = params_of(VILBERT.groups, TEXT, IMAGE)
    found = value_and_grads(replace(VILBERT, unroll=ALL, remat="full"), params, *inputs(VILBERT))
    assert above(relative_errors(found, on_one_device("vilbert")), LAYER) == {}


def test_each_layer_has_a_key_of_its_own():
    """The scan against one layer after the other, by hand."""
    noisy = replace(TEXT, dropout_rate=0.3, attention_dropout_rate=0.2)
    config = TrunkConfig(noisy, noisy, (Group((trunks.EACH_ITS_OWN, trunks.JOINT), 2),))
    params = params_of(config.groups, TEXT, TEXT)
    streams, masks = inputs(UNITER)
    trunk = nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: build(config))), params)
    key = jax.random.key(0)
    found = jax.jit(lambda streams: trunk(streams, masks, key))(streams)

    graph, states = nnx.split(trunk.groups[0])
    expected = Streams(*map(jnp.asarray, streams))
    for number, repeat_key in enumerate(jax.random.split(jax.random.split(key, 1)[0], 2)):
        layers = nnx.merge(graph, jax.tree.map(lambda x, row=number: x[row], states))
        for one, layer_key in zip(layers.layers, jax.random.split(repeat_key, 2), strict=True):
            expected = one(expected, masks, layer_key)
    assert above(relative_errors(found, expected), LAYER) == {}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [*(("vilbert", sizes) for sizes in ((8, 1, 1), (2, 4, 1), (2, 2, 2))), ("uniter", (2, 2, 2))],
    ids=str,
)
def test_every_mesh_gives_what_one_device_gives(name, sizes):
    config = CONFIGS[name]
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    spec = model_spec(lambda key: Trunk(config, key), mesh)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), spec.params_spec)
    with jax.set_mesh(mesh):
        params = jax.device_put(params_of(config.groups, config.text, config.image), shardings)
        streams, masks = jax.device_put(inputs(config), rules.batch_sharding(mesh))
        found = value_and_grads(config, params, streams, masks)
    assert above(relative_errors(found, on_one_device(name)), LAYER) == {}


def test_co_attention_is_the_formula():
    """softmax(Q_w K_v^T / sqrt(h)) V_v for the text, and the image's counterpart, both from what came in; float64."""
    layer = replace(CONNECTION, text_mlp=False, image_mlp=False)
    plain = {"norm": "pre", "dropout_rate": 0.0, "attention_dropout_rate": 0.0}
    config = TrunkConfig(replace(TEXT, **plain), replace(IMAGE, **plain), (Group((layer,)),))
    params = params_of(config.groups, config.text, config.image)
    streams, masks = inputs(config)
    graph = nnx.graphdef(nnx.eval_shape(lambda: build(config)))
    found = jax.device_get(nnx.merge(graph, params)(Streams(*map(jnp.asarray, streams)), masks))
    rows = jax.tree.map(lambda array: array[0].astype(np.float64), params["groups"][0]["layers"][0])
    for own, other in (("text", "image"), ("image", "text")):
        x, source = (getattr(streams, name).astype(np.float64) for name in (own, other))
        x_normed = normed(rows[own]["attention_norm"], x, 1e-6)
        expected = x + attended(rows[own]["attention"], CONNECTION.num_heads, x_normed, source, getattr(masks, other))
        assert above(relative_errors([getattr(found, own)], [expected]), LAYER) == {}


@pytest.mark.parametrize("name", ["vilbert", "uniter", "lxmert"])
def test_what_is_masked_moves_nothing_that_is_not(name):
    config = CONFIGS[name]
    streams, masks = inputs(config)
    graph = nnx.graphdef(nnx.eval_shape(lambda: build(config)))
    params = params_of(config.groups, config.text, config.image)
    run = jax.jit(lambda streams: nnx.merge(graph, params)(streams, masks))
    other = Streams(*(np.where(mask[..., None], x, 9.0) for x, mask in zip(streams, masks, strict=True)))
    for before, after, mask in zip(run(streams), run(other), masks, strict=True):
        assert np.array_equal(np.asarray(before)[mask], np.asarray(after)[mask])


def test_joint_layers_are_those_of_two_streams_with_one_set_of_parameters():
    """A joint layer runs over all tokens at once; the general form, stream by stream, gives the same."""
    joint = trunks.JOINT
    apart = (replace(joint, text_mlp=False, image_mlp=False), Layer(shared=True))
    params = params_of(UNITER.groups, TEXT, TEXT)
    block = params["groups"][0]["layers"][0]["shared"]
    parts = ("attention", "attention_norm"), ("mlp", "mlp_norm")
    layers = {number: {"shared": {name: block[name] for name in names}} for number, names in enumerate(parts)}
    two = TrunkConfig(TEXT, TEXT, (Group(apart, 2),))
    arguments = inputs(UNITER)
    found = value_and_grads(two, {"groups": {0: {"layers": layers}}}, *arguments)
    expected = on_one_device("uniter")
    assert above(relative_errors((found[0], found[1][1]), (expected[0], expected[1][1])), LAYER) == {}


def test_the_image_of_albef_only_gives():
    config = TrunkConfig(TEXT, IMAGE, trunks.albef(3, 2))
    streams, masks = inputs(config)
    found = jax.jit(lambda: build(config)(Streams(*map(jnp.asarray, streams)), masks))()
    assert np.array_equal(found.image, streams.image)
    other = Streams(streams.text, streams.image + np.float32(1) * np.arange(24, dtype=np.float32))
    assert (
        np.abs(jax.jit(lambda: build(config)(Streams(*map(jnp.asarray, other)), masks))().text - found.text).max() > 0
    )


def test_what_repeats_is_gathered():
    a, b, c = trunks.TEXT, trunks.IMAGE, CONNECTION
    assert grouped([a, a, a]) == (Group((a,), 3),)
    assert grouped([a, a, c, b, c, b, a]) == (Group((a,), 2), Group((c, b), 2), Group((a,), 1))
    assert grouped([a, b, c]) == (Group((a,)), Group((b,)), Group((c,)))
    assert grouped([]) == ()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (trunks.JOINT, "shares parameters, but the blocks of text and image differ"),
        (Layer(text="both"), r"attends to streams of widths 16 \(text\) and 24 \(image\) together"),
        (replace(CONNECTION, num_heads=5), "num_heads 5 does not divide the attention's width 32"),
    ],
)
def test_streams_that_do_not_fit_are_refused(layer, message):
    with pytest.raises(UserError, match=message):
        TrunkConfig(TEXT, IMAGE, (Group((layer,)),))


@pytest.mark.parametrize("changes", [{"text": "image"}, {"text_mlp": False}], ids=str)
def test_nothing_is_shared_that_one_stream_lacks(changes):
    with pytest.raises(UserError, match="shares what only one stream has"):
        Layer(shared=True, **changes)
