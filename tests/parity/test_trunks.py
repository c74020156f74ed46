"""The trunk of two streams against what the authors' code of ViLBERT and UNITER made of the same weights and inputs."""

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from mmjax.models import trunks
from mmjax.nn.bimodal import Group, Layer, Masks, Streams, Trunk, TrunkConfig
from mmjax.nn.block import BlockConfig
from tests.parity.reference import seeded
from tests.tolerances import LAYER, above, relative_errors

REFERENCE = Path(__file__).parent / "reference"
Weights = dict[str, np.ndarray]
Tree = dict[Any, Any]


class Facts:
    """What is known of one reference model: its weights, its inputs, and what it computes from them."""

    def __init__(self, name: str):
        about = json.loads((REFERENCE / f"{name}.json").read_text())
        self.config, self._inputs = about["config"], about["inputs"]
        self.weights = seeded.weights(about["parameters"], about["tied"])
        self._outputs = np.load(REFERENCE / f"{name}.npz")
        own = (array for name, array in self.weights.items() if name not in about["tied"])
        assert seeded.crc32(own) == about["weights_crc32"]

    def batch(self, case: str) -> seeded.Batch:
        return seeded.inputs(**self._inputs, padded=case == "padded")

    def output(self, case: str, name: str) -> np.ndarray:
        return self._outputs[f"{case}/{name}"]


def linear(weights: Weights, name: str) -> Tree:
    return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}


def norm(weights: Weights, name: str) -> Tree:
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


def inward(weights: Weights, name: str, num_heads: int) -> Tree:
    """A map to heads: kernel (d, n, h), bias (n, h)."""
    plain = linear(weights, name)
    return {key: array.reshape(*array.shape[:-1], num_heads, -1) for key, array in plain.items()}


def outward(weights: Weights, name: str, num_heads: int) -> Tree:
    plain = linear(weights, name)
    return plain | {"kernel": plain["kernel"].reshape(num_heads, -1, plain["bias"].size)}


def attention(weights: Weights, query: str, key: str, value: str, out: str, num_heads: int) -> Tree:
    names = {"query": query, "key": key, "value": value}
    heads = {ours: inward(weights, theirs, num_heads) for ours, theirs in names.items()}
    return heads | {"out": outward(weights, out, num_heads)}


def mlp(weights: Weights, up: str, down: str) -> Tree:
    layers = {"up": linear(weights, f"{up}.dense"), "down": linear(weights, f"{down}.dense")}
    return {"mlp": layers, "mlp_norm": norm(weights, f"{down}.LayerNorm")}


def bert_layer(weights: Weights, prefix: str, num_heads: int) -> Tree:
    own = (f"{prefix}.attention.self.{name}" for name in ("query", "key", "value"))
    return {
        "attention": attention(weights, *own, f"{prefix}.attention.output.dense", num_heads),
        "attention_norm": norm(weights, f"{prefix}.attention.output.LayerNorm"),
        **mlp(weights, f"{prefix}.intermediate", f"{prefix}.output"),
    }


def connection(weights: Weights, prefix: str, num_heads: int) -> Tree:
    """1 is the image and 2 the text; what reads crosses over to the output of its own number."""
    parts = {}
    for stream, letter, own, other in (("text", "t", 2, 1), ("image", "v", 1, 2)):
        names = (f"query{own}", f"key{other}", f"value{other}")
        inputs = (f"{prefix}.biattention.{name}" for name in names)
        parts[stream] = {
            "attention": attention(weights, *inputs, f"{prefix}.biOutput.dense{own}", num_heads),
            "attention_norm": norm(weights, f"{prefix}.biOutput.LayerNorm{own}"),
            **mlp(weights, f"{prefix}.{letter}_intermediate", f"{prefix}.{letter}_output"),
        }
    return parts


def params_of(groups: tuple[Group, ...], layer_params: Any) -> Tree:
    """The parameters of a trunk whose layers, in their order, have those that `layer_params(layer)` gives."""
    tree = {}
    for number, group in enumerate(groups):
        repeats = [[layer_params(layer) for layer in group.layers] for _ in range(group.repeat)]
        rows = [dict(enumerate(layers)) for layers in repeats]
        tree[number] = {"layers": jax.tree.map(lambda *arrays: np.stack(arrays), *rows)}
    return {"groups": tree}


def run(config: TrunkConfig, params: Tree, streams: Streams, masks: Masks) -> Streams:
    graph = nnx.graphdef(nnx.eval_shape(lambda: Trunk(config, jax.random.key(0))))
    return jax.device_get(jax.jit(lambda params: nnx.merge(graph, params)(streams, masks))(params))


def block(config: dict[str, Any], prefix: str = "") -> BlockConfig:
    return BlockConfig(
        width=config[f"{prefix}hidden_size"],
        num_heads=config[f"{prefix}num_attention_heads"],
        mlp_dim=config[f"{prefix}intermediate_size"],
        activation="gelu",
        norm="post",
        norm_eps=1e-12,
    )


@pytest.mark.parametrize("case", ["full", "padded"])
def test_vilbert(case):
    facts = Facts("vilbert_small")
    config, weights, numbers = facts.config, facts.weights, {"text": itertools.count(), "image": itertools.count()}
    heads = {"text": config["num_attention_heads"], "image": config["v_num_attention_heads"]}
    connections = itertools.count()

    def layer_params(layer: Layer) -> Tree:
        if layer.text == "image":
            prefix = f"bert.encoder.c_layer.{next(connections)}"
            return connection(weights, prefix, config["bi_num_attention_heads"])
        names = {"text": "layer", "image": "v_layer"}
        return {
            stream: bert_layer(weights, f"bert.encoder.{name}.{next(numbers[stream])}", heads[stream])
            for stream, name in names.items()
            if getattr(layer, stream) == stream
        }

    groups = trunks.vilbert(
        *(config["num_hidden_layers"], config["v_num_hidden_layers"]),
        *(config["t_biattention_id"], config["v_biattention_id"]),
        *(config["bi_hidden_size"], config["bi_num_attention_heads"]),
    )
    trunk = TrunkConfig(block(config), block(config, "v_"), groups)
    batch = facts.batch(case)
    streams = Streams(facts.output(case, "text_embeddings"), facts.output(case, "image_embeddings"))
    masks = Masks(batch.text_mask, seeded.with_whole_image(batch)[2].astype(bool))
    found = run(trunk, params_of(groups, layer_params), streams, masks)
    expected = Streams(facts.output(case, "text"), facts.output(case, "image"))
    assert above(relative_errors(found, expected), LAYER) == {}


@pytest.mark.parametrize("case", ["full", "padded"])
def test_uniter(case):
    """With some regions masked, of which alone the embeddings are known."""
    facts = Facts("uniter_small")
    config, numbers = facts.config, itertools.count()
    groups = trunks.single_stream(config["num_hidden_layers"])

    def layer_params(layer: Layer) -> Tree:
        assert layer.is_joint
        prefix = f"uniter.encoder.layer.{next(numbers)}"
        return {"shared": bert_layer(facts.weights, prefix, config["num_attention_heads"])}

    batch = facts.batch(case)
    masks = Masks(batch.text_mask, batch.region_mask)
    streams = Streams(facts.output(case, "text_embeddings"), facts.output(case, "image_masked_embeddings"))
    found = run(TrunkConfig(block(config), block(config), groups), params_of(groups, layer_params), streams, masks)
    # The reference has no padding between text and regions, and zeros here.
    found = Streams(*(x * mask[..., None] for x, mask in zip(found, masks, strict=True)))
    expected = Streams(facts.output(case, "text_masked"), facts.output(case, "image_masked"))
    assert above(relative_errors(found, expected), LAYER) == {}


def test_the_layers_of_the_published_vilbert():
    """Six layers of text alone, then six times a co-attention and a layer of each stream; figure 2 of the paper."""
    config = json.loads((REFERENCE / "vilbert_base.json").read_text())["config"]
    groups = trunks.vilbert(12, 6, config["t_biattention_id"], config["v_biattention_id"], 1024, 8)
    connection = Layer(text="image", image="text", inner_width=1024, num_heads=8)
    assert groups == (Group((trunks.TEXT,), 6), Group((connection, trunks.EACH_ITS_OWN), 6))
