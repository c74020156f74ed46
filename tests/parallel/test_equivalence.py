"""The same loss and gradients on every mesh, and the stored spec of every parameter."""

import functools
import math
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.losses import contrastive
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.models.resnet import ResNetConfig
from mmjax.nn.parameter import storage_spec_of
from mmjax.nn.stem import ConvStem
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests import tiny
from tests.tolerances import LAYER, above, relative_errors

MESHES = [(1, 1, 1), (8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8)]
STEM: dict[str, Any] = {"stem": "conv", "stem_norm": "batch", "stem_residual": (0, 0, 1)}
CONV = replace(
    tiny.SIGLIP,
    image=replace(tiny.SIGLIP.image, **STEM, qk_norm=True, drop_path_rate=0.1),
    text=replace(tiny.SIGLIP.text, qk_norm=True, use_mask=True),
)
"""SigLIP with what it does not have: convolutional stem with batch norm, qk-norm, a text mask and dropped paths."""
RESNET = replace(
    tiny.SIGLIP,
    image=ResNetConfig(image_size=16, embedding_dim=6, stage_dims=(16, 32), depths=(1, 2)),
    image_projection="linear",
)
MODELS = {
    "clip": (tiny.CLIP, functools.partial(contrastive, kind="softmax", implementation="ring")),
    "siglip_conv": (CONV, functools.partial(contrastive, kind="sigmoid", implementation="dense")),
    "resnet": (RESNET, functools.partial(contrastive, kind="sigmoid", implementation="dense")),
}
CASES = [
    *(("clip", sizes) for sizes in MESHES[1:]),
    *(("siglip_conv", sizes) for sizes in ((2, 2, 2), (1, 1, 8))),
    *(pytest.param("siglip_conv", sizes, marks=pytest.mark.long) for sizes in ((8, 1, 1), (2, 4, 1))),
    ("resnet", (2, 2, 2)),
]
"""(2, 2, 2) splits what (8, 1, 1) and (2, 4, 1) do; a model whose batch norms take long to compile has those apart."""


def mesh_of(sizes: tuple[int, int, int]) -> Mesh:
    return make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])


def build(config: DualEncoderConfig) -> DualEncoder:
    return DualEncoder(config, jax.random.key(0))


@functools.cache
def host_params(name: str) -> Any:
    return jax.device_get(jax.jit(lambda: nnx.to_pure_dict(nnx.state(build(MODELS[name][0]))))())


def stored_specs(config: DualEncoderConfig, mesh: Mesh) -> Any:
    state = nnx.state(nnx.eval_shape(lambda: build(config)))
    specs = jax.tree.map(
        lambda param: storage_spec_of(param, mesh),
        state,
        is_leaf=lambda node: isinstance(node, nnx.Variable),
    )
    return nnx.to_pure_dict(specs)


def loss_and_grads(name: str, sizes: tuple[int, int, int]) -> tuple[Any, Any]:
    config, loss_of = MODELS[name]
    mesh = mesh_of(sizes)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), stored_specs(config, mesh))
    graph = nnx.graphdef(nnx.eval_shape(lambda: build(config)))

    def loss(params: Any, batch: Any, key: Any) -> Any:
        model = nnx.merge(graph, params)
        image_embed, _ = model.encode_image(batch["image"], key)
        text_embed, _ = model.encode_text(batch["text_ids"], batch["text_mask"], key)
        scale, bias = model.log_scale[...], model.bias()
        return loss_of(image_embed, text_embed, scale, bias, batch["ids"], batch["weights"]).value

    with jax.set_mesh(mesh):
        params = jax.device_put(host_params(name), shardings)
        batch = jax.device_put(tiny.batch(), rules.batch_sharding(mesh))
        value, grads = jax.jit(jax.value_and_grad(loss))(params, batch, jax.random.key(1))
        jax.tree.map(lambda grad, sharding: _assert_equal(grad.sharding.spec, sharding.spec), grads, shardings)
        return jax.device_get((value, grads))


def _assert_equal(left: Any, right: Any) -> None:
    assert left == right


@functools.cache
def on_one_device(name: str) -> tuple[Any, Any]:
    return loss_and_grads(name, (1, 1, 1))


@pytest.mark.parametrize(("name", "sizes"), CASES, ids=str)
def test_loss_and_gradients_agree_with_one_device(name, sizes):
    assert above(relative_errors(loss_and_grads(name, sizes), on_one_device(name)), LAYER) == {}


def test_only_what_softmax_does_not_see_has_no_gradient():
    _, grads = on_one_device("clip")
    norms = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.linalg.norm(grad)
        for path, grad in jax.tree.leaves_with_path(grads)
    }
    unseen = {path for path, norm in norms.items() if norm < 1e-6}
    assert unseen == {f"{tower}/blocks/attention/key/bias" for tower in ("image", "text")}


def test_every_parameter_is_stored_as_the_rules_say():
    specs = stored_specs(CONV, mesh_of((2, 2, 2)))
    block = {
        "attention_norm": {"scale": P(None, None), "bias": P(None, None)},
        "attention": {
            **{
                name: {"kernel": P(None, "fsdp", "tensor"), "bias": P(None, "tensor")}
                for name in ("query", "key", "value")
            },
            "out": {"kernel": P(None, "tensor", "fsdp"), "bias": P(None, None)},
            "query_norm": {"scale": P(None, None), "bias": P(None, None)},
            "key_norm": {"scale": P(None, None), "bias": P(None, None)},
        },
        "mlp_norm": {"scale": P(None, None), "bias": P(None, None)},
        "mlp": {
            "up": {"kernel": P(None, "fsdp", "tensor"), "bias": P(None, "tensor")},
            "down": {"kernel": P(None, "tensor", "fsdp"), "bias": P(None, None)},
        },
    }
    norm = {"scale": P(None), "bias": P(None)}
    assert specs["text"] == {
        "tokens": {"table": P("tensor", "fsdp")},
        "positions": P(None, "fsdp"),
        "blocks": block,
        "final_norm": norm,
    }
    names = ("scale", "bias", "running_mean", "running_variance")
    unit = {"kernel": P(None, None, None, None), "norm": dict.fromkeys(names, P(None))}
    assert specs["image"]["blocks"] == block
    assert specs["image"]["stem"] == {
        "stages": {0: {"down": unit}, 1: {"down": unit}, 2: {"down": unit, "residual": {0: unit}}},
        "projection": {"kernel": P(None, "fsdp"), "bias": P(None)},
    }
    assert specs["image"]["pool"]["probe"] == P(None, "fsdp")
    assert specs["image"]["positions"] == P(None, "fsdp")
    assert specs["text_projection"] == {"kernel": P("fsdp", None), "bias": P(None)}
    assert specs["log_scale"] == specs["logit_bias"] == P()


def test_a_stem_with_group_norm_agrees_with_one_device():
    stem = ConvStem(jax.random.key(0), 8, 32, activation="gelu", num_residual=(0, 1, 0))
    image = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
    expected = jax.jit(lambda image: stem(image))(image)
    graph, state = nnx.split(stem)
    mesh = mesh_of((2, 2, 2))
    with jax.set_mesh(mesh):
        state = jax.device_put(state, rules.replicated(mesh))
        placed = jax.device_put(image, rules.batch_sharding(mesh))
        tokens = jax.jit(lambda state, image: nnx.merge(graph, state)(image))(state, placed)
        assert tokens.sharding.is_equivalent_to(rules.batch_sharding(mesh), 3)
    assert above(relative_errors([jax.device_get(tokens)], [jax.device_get(expected)]), LAYER) == {}
