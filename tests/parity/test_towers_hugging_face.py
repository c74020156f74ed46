"""Single towers against `BertModel`, `ViTModel` and `ResNetModel` of Hugging Face, from the same random weights.

The weights are converted here by hand, apart from `mmjax.interop`, so that the two can disagree.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.models.resnet import ResNetConfig
from mmjax.models.text import TextConfig, TextTransformer
from mmjax.models.vit import ViTConfig
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.parameter import num_parameters
from tests.parity.torch_weights import StateDict, Tree, linear, norm, under
from tests.tolerances import MODEL, above, relative_errors

torch = pytest.importorskip("torch", reason="parity needs torch, which requirements-dev.txt installs")
transformers = pytest.importorskip("transformers")

# No power of 2 among them, and heads of an odd width.
SIZE = {"width": 30, "depth": 2, "mlp_dim": 44, "num_heads": 6}
SHARED = {
    "hidden_size": SIZE["width"],
    "num_hidden_layers": SIZE["depth"],
    "intermediate_size": SIZE["mlp_dim"],
    "num_attention_heads": SIZE["num_heads"],
    "attn_implementation": "eager",
}
VOCAB_SIZE, CONTEXT_LEN = 50, 9
BERT = {**SHARED, "vocab_size": VOCAB_SIZE, "max_position_embeddings": CONTEXT_LEN, "layer_norm_eps": 1e-12}
TEXT = TextConfig(
    **SIZE,
    vocab_size=VOCAB_SIZE,
    context_len=CONTEXT_LEN,
    use_mask=True,
    pool="first",
    pooler=True,
    num_token_types=2,
    norm="post",
    norm_eps=1e-12,
    embedding_norm=True,
    final_norm=False,
    activation="gelu",
)
IMAGE = ViTConfig(**SIZE, patch_size=8, pool="cls", pooler=True, norm_eps=1e-12, activation="gelu")

RESNET = ResNetConfig(embedding_dim=6, stage_dims=(12, 20), depths=(2, 2))


class Names(NamedTuple):
    """What a class of theirs calls the parts of a layer."""

    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    up: str
    down: str
    mlp_norm: str


BERT_NAMES = Names(
    *(f"attention.{part}" for part in ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")),
    *("intermediate.dense", "output.dense", "output.LayerNorm"),
)
VIT_NAMES = Names(
    *(f"attention.{part}_proj" for part in ("q", "k", "v", "o")),
    *("layernorm_before", "mlp.fc1", "mlp.fc2", "layernorm_after"),
)


def randomised(model: Any) -> Any:
    """Every weight and statistic drawn anew, so that no bias is 0, no norm the identity and no variance 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        for name, statistic in model.named_buffers():
            if statistic.is_floating_point():
                noise = torch.rand(statistic.shape, generator=generator)
                statistic.copy_(0.5 + noise if name.endswith("running_var") else noise - 0.5)
    return model.eval()


def weights(model: Any) -> StateDict:
    return {name: weight.detach().numpy() for name, weight in model.state_dict().items()}


def run(build: Any, params: Tree, *inputs: np.ndarray) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Features and extras of the tower that `build(key)` makes, with these parameters."""
    graph, state = nnx.split(nnx.eval_shape(lambda: build(jax.random.key(0))))
    shapes = jax.tree.map(lambda leaf: leaf.shape, nnx.to_pure_dict(state))
    assert jax.tree.map(np.shape, params) == shapes
    return jax.jit(lambda params: nnx.merge(graph, params)(*map(jnp.asarray, inputs)))(params)


def stacked(layers: list[Tree]) -> Tree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)


def block(state: StateDict, names: Names) -> Tree:
    attention = {part: linear(under(state, getattr(names, part))) for part in ("query", "key", "value")}
    return {
        "attention": {**attention, "out": linear(under(state, names.out))},
        "attention_norm": norm(under(state, names.attention_norm)),
        "mlp": {"up": linear(under(state, names.up)), "down": linear(under(state, names.down))},
        "mlp_norm": norm(under(state, names.mlp_norm)),
    }


def blocks(state: StateDict, layers: str, names: Names) -> Tree:
    return stacked([block(under(state, f"{layers}.{layer}"), names) for layer in range(SIZE["depth"])])


def bert_params(state: StateDict) -> Tree:
    embeddings = under(state, "embeddings")
    return {
        "tokens": {"table": np.pad(embeddings["word_embeddings.weight"], ((0, 128 - VOCAB_SIZE), (0, 0)))},
        "positions": embeddings["position_embeddings.weight"],
        "token_types": embeddings["token_type_embeddings.weight"],
        "embedding_norm": norm(under(embeddings, "LayerNorm")),
        "blocks": blocks(state, "encoder.layer", BERT_NAMES),
        "pooler": linear(under(state, "pooler.dense")),
    }


def vit_params(state: StateDict) -> Tree:
    embeddings = under(state, "embeddings")
    kernel = embeddings["patch_embeddings.projection.weight"]
    return {
        "stem": {
            "projection": {
                "kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel)),
                "bias": embeddings["patch_embeddings.projection.bias"],
            }
        },
        "class_token": embeddings["cls_token"][0, 0],
        "positions": embeddings["position_embeddings"][0],
        "blocks": blocks(state, "layers", VIT_NAMES),
        "final_norm": norm(under(state, "layernorm")),
        "pooler": linear(under(state, "pooler.dense")),
    }


def conv_unit(state: StateDict) -> Tree:
    statistics = {"running_mean": state["normalization.running_mean"]}
    statistics["running_variance"] = state["normalization.running_var"]
    kernel = state["convolution.weight"].transpose(2, 3, 1, 0)
    return {"kernel": kernel, "norm": {**norm(under(state, "normalization")), **statistics}}


def residual_layer(state: StateDict) -> Tree:
    num_units = len([name for name in state if name.startswith("layer.") and name.endswith("convolution.weight")])
    units = {unit: conv_unit(under(state, f"layer.{unit}")) for unit in range(num_units)}
    shortcut = under(state, "shortcut")
    return {"units": units, "shortcut": conv_unit(shortcut)} if shortcut else {"units": units}


def resnet_params(state: StateDict, config: ResNetConfig) -> Tree:
    stages = {
        stage: {
            "layers": {
                layer: residual_layer(under(state, f"encoder.stages.{stage}.layers.{layer}")) for layer in range(depth)
            }
        }
        for stage, depth in enumerate(config.depths)
    }
    return {"stem": conv_unit(under(state, "embedder.embedder")), "stages": stages}


def resnet_config(config: ResNetConfig) -> Any:
    return transformers.ResNetConfig(
        embedding_size=config.embedding_dim,
        hidden_sizes=list(config.stage_dims),
        depths=list(config.depths),
        layer_type=config.layer,
        hidden_act=config.activation,
        downsample_in_first_stage=config.downsample_in_first_stage,
        downsample_in_bottleneck=config.downsample_in_bottleneck,
    )


def texts() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = np.asarray([1, 4, CONTEXT_LEN])
    text_mask = np.arange(CONTEXT_LEN) < lengths[:, None]
    return np.where(text_mask, rng.integers(1, VOCAB_SIZE, text_mask.shape), 0).astype(np.int32), text_mask


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_pytorch_tanh"])
def test_bert(activation):
    model = randomised(transformers.BertModel(transformers.BertConfig(**BERT, hidden_act=activation)))
    text_ids, text_mask = texts()
    with torch.no_grad():
        theirs = model(torch.from_numpy(text_ids).long(), torch.from_numpy(text_mask).long())
    config = replace(TEXT, activation={"gelu_pytorch_tanh": "gelu_tanh"}.get(activation, activation))
    features, extras = run(lambda key: TextTransformer(config, key), bert_params(weights(model)), text_ids, text_mask)
    # What stands at hidden positions is nobody's business.
    ours = {"features": features, "tokens": np.asarray(extras["tokens"])[text_mask]}
    expected = {"features": theirs.pooler_output.numpy(), "tokens": theirs.last_hidden_state.numpy()[text_mask]}
    assert above(relative_errors(ours, expected), MODEL) == {}
    assert model.num_parameters() == num_parameters(nnx.eval_shape(lambda: TextTransformer(config, jax.random.key(0))))


@pytest.mark.parametrize("size", [(16, 16), (16, 24), (24, 16)], ids=str)
def test_vit(size):
    config = transformers.ViTConfig(**SHARED, image_size=list(size), patch_size=8, layer_norm_eps=1e-12)
    model = randomised(transformers.ViTModel(config))
    image = pixels(size)
    with torch.no_grad():
        theirs = model(torch.from_numpy(image.transpose(0, 3, 1, 2)))
    ours = replace(IMAGE, image_size=size[0], image_width=size[1])
    features, extras = run(ours.build, vit_params(weights(model)), image)
    expected = {"features": theirs.pooler_output.numpy(), "tokens": theirs.last_hidden_state.numpy()}
    assert above(relative_errors({"features": features, "tokens": extras["tokens"]}, expected), MODEL) == {}
    assert model.num_parameters() == num_parameters(nnx.eval_shape(lambda: ours.build(jax.random.key(0))))


RESNETS: dict[str, dict[str, Any]] = {
    "basic": {"layer": "basic"},
    "bottleneck": {},
    "first stage": {"downsample_in_first_stage": True},
    "in bottleneck": {"downsample_in_bottleneck": True, "activation": "gelu"},
}


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("size", [(32, 32), (37, 50)], ids=str)
def test_resnet(name, size):
    ours = replace(RESNET, **RESNETS[name], image_size=size[0], image_width=size[1])
    model = randomised(transformers.ResNetModel(resnet_config(ours)))
    image = pixels(size)
    with torch.no_grad():
        theirs = model(torch.from_numpy(image.transpose(0, 3, 1, 2)))
    params = resnet_params(weights(model), ours)
    features, extras = run(ours.build, params, image)
    grid = theirs.last_hidden_state.numpy()
    expected = {"features": theirs.pooler_output[:, :, 0, 0].numpy(), "tokens": grid.reshape(*grid.shape[:2], -1)}
    expected["tokens"] = expected["tokens"].transpose(0, 2, 1)
    assert above(relative_errors({"features": features, "tokens": extras["tokens"]}, expected), MODEL) == {}
    assert model.num_parameters() == num_parameters(nnx.eval_shape(lambda: ours.build(jax.random.key(0))))


@pytest.mark.parametrize("name", ["basic", "bottleneck"])
def test_resnet_in_training(name, monkeypatch):
    """The gradients; those of the running statistics are their distance from what the batch has.

    Both sides have GELU for ReLU, at whose kink a rounding changes a gradient by more than any tolerance.
    """
    monkeypatch.setitem(ACTIVATIONS, "relu", ACTIVATIONS["gelu"])
    # Wide enough that no channel rests on a few numbers, whose rounding a batch norm blows up.
    ours = replace(RESNET, **RESNETS[name], image_size=32, embedding_dim=16, stage_dims=(32, 48))
    model = randomised(transformers.ResNetModel(resnet_config(ours))).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # What is kept afterwards is then the batch's alone.
        if isinstance(getattr(module, "activation", None), torch.nn.ReLU):
            module.activation = torch.nn.GELU()
    before = resnet_params({name: weight.copy() for name, weight in weights(model).items()}, ours)
    image = pixels((32, 32), num_images=8)
    model(torch.from_numpy(image.transpose(0, 3, 1, 2))).pooler_output.square().sum().backward()
    gradients = {name: weight.grad.numpy() for name, weight in model.named_parameters()}
    theirs = resnet_params(weights(model) | gradients, ours)
    graph = nnx.graphdef(nnx.eval_shape(lambda: ours.build(jax.random.key(0))))

    def loss(params: Tree) -> jax.Array:
        features, _ = nnx.merge(graph, params)(jnp.asarray(image), jax.random.key(0))
        return jnp.sum(jnp.square(features))

    grads = jax.jit(jax.grad(loss))(before)
    ours = jax.tree.map_with_path(lambda path, old, g: old - g if "running" in str(path) else g, before, grads)
    wrong = above(relative_errors(ours, theirs), MODEL)
    # PyTorch keeps the unbiased variance, which is n / (n - 1) of what it normalises with.
    assert {path for path in wrong if not path.endswith("running_variance")} == set()


def pixels(size: tuple[int, int], num_images: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num_images, *size, 3)).astype(np.float32)
