"""Files of big_vision: written here by hand from the weights of Hugging Face's models, which compute the same."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from mmjax.assembly import foreign_experiment
from mmjax.errors import UserError
from mmjax.interop.imports import check_model, opened, parameters
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from tests.interop import torch_models
from tests.interop.test_hugging_face import model_of
from tests.interop.torch_models import TEXT_LEN, VOCAB_SIZE, sized, torch, transformers
from tests.parity.torch_weights import under
from tests.tolerances import MODEL

Arrays = dict[str, np.ndarray]
HEADS = 3


def linear(state: Arrays) -> Arrays:
    return {"kernel": state["weight"].T, "bias": state["bias"]}


def norm(state: Arrays) -> Arrays:
    return {"scale": state["weight"], "bias": state["bias"]}


def nested(**parts: Arrays) -> Arrays:
    """Names as paths; `__` in a part's name is a slash."""
    return {
        f"{part.replace('__', '/')}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()
    }


def attention(query: Arrays, key: Arrays, value: Arrays, out: Arrays) -> Arrays:
    found = {}
    for name, state in (("query", query), ("key", key), ("value", value)):
        found[f"{name}/kernel"] = state["weight"].T.reshape(state["weight"].shape[1], HEADS, -1)
        found[f"{name}/bias"] = state["bias"].reshape(HEADS, -1)
    width = out["weight"].shape[0]
    return {**found, "out/kernel": out["weight"].T.reshape(HEADS, -1, width), "out/bias": out["bias"]}


def mlp(state: Arrays, first: str, second: str) -> Arrays:
    return nested(Dense_0=linear(under(state, first)), Dense_1=linear(under(state, second)))


def siglip_block(state: Arrays) -> Arrays:
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    return nested(
        LayerNorm_0=norm(under(state, "layer_norm1")),
        MultiHeadDotProductAttention_0=attention(*(under(state, f"self_attn.{name}") for name in names)),
        LayerNorm_1=norm(under(state, "layer_norm2")),
        MlpBlock_0=mlp(state, "mlp.fc1", "mlp.fc2"),
    )


def stack(blocks: list[Arrays], *, scanned: bool) -> Arrays:
    if scanned:
        return {f"encoderblock/{name}": np.stack([block[name] for block in blocks]) for name in blocks[0]}
    return {f"encoderblock_{i}/{name}": array for i, block in enumerate(blocks) for name, array in block.items()}


def patches(weight: np.ndarray) -> np.ndarray:
    return weight.transpose(2, 3, 1, 0)


def map_head(state: Arrays) -> Arrays:
    weights = np.split(state["attention.in_proj_weight"], 3)
    biases = np.split(state["attention.in_proj_bias"], 3)
    inward = [{"weight": weight, "bias": bias} for weight, bias in zip(weights, biases, strict=True)]
    return {
        "probe": state["probe"],
        **nested(
            MultiHeadDotProductAttention_0=attention(*inward, under(state, "attention.out_proj")),
            LayerNorm_0=norm(under(state, "layernorm")),
            MlpBlock_0=mlp(state, "mlp.fc1", "mlp.fc2"),
        ),
    }


def siglip_arrays(state: Arrays, *, scanned: bool) -> Arrays:
    """The parameters of big_vision's two towers."""

    def encoder(tower: str, norm_name: str) -> Arrays:
        layers = [siglip_block(under(state, f"{tower}.encoder.layers.{i}")) for i in range(2)]
        return {**stack(layers, scanned=scanned), **nested(encoder_norm=norm(under(state, f"{tower}.{norm_name}")))}

    vision, text = under(state, "vision_model"), under(state, "text_model")
    return {
        "img/embedding/kernel": patches(vision["embeddings.patch_embedding.weight"]),
        "img/embedding/bias": vision["embeddings.patch_embedding.bias"],
        "img/pos_embedding": vision["embeddings.position_embedding.weight"][None],
        **nested(img__Transformer=encoder("vision_model", "post_layernorm")),
        **nested(img__MAPHead_0=map_head(under(vision, "head"))),
        "txt/Embed_0/embedding": text["embeddings.token_embedding.weight"],
        "txt/pos_embedding": text["embeddings.position_embedding.weight"][None],
        **nested(txt__Encoder_0=encoder("text_model", "final_layer_norm"), txt__head=linear(under(text, "head"))),
        "t": state["logit_scale"],
        "b": state["logit_bias"],
    }


def siglip() -> Any:
    text = {**torch_models.TEXT, **sized(24, HEADS, 28, 2, "gelu_pytorch_tanh"), "projection_size": 36}
    vision = {**sized(36, HEADS, 50, 2, "gelu_pytorch_tanh"), "image_size": 20, "patch_size": 10}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    return torch_models.randomised(transformers.SiglipModel(config))


def state_of(model: Any) -> Arrays:
    return {name: weight.detach().numpy() for name, weight in model.named_parameters()}


def assert_close(found: Any, features: Any) -> None:
    """Ours, at length 1 or not, against theirs, which are not."""
    found = torch.from_numpy(np.asarray(found).copy())
    found, expected = (torch.nn.functional.normalize(x, dim=-1) for x in (found, features))
    assert (found - expected).abs().max() < MODEL


@pytest.fixture(scope="module")
def theirs() -> Any:
    return siglip()


def saved(file: Path, arrays: Arrays) -> str:
    np.savez(file, allow_pickle=False, **arrays)
    return f"big_vision:{file}"


def under_params(arrays: Arrays) -> Arrays:
    return {f"params/{name}": array for name, array in arrays.items()}


@pytest.mark.parametrize("scanned", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("rooted", [False, True], ids=["bare", "params"])
def test_two_towers_compute_what_siglip_does(theirs, scanned, rooted, tmp_path, mesh):
    del mesh
    arrays = siglip_arrays(state_of(theirs), scanned=scanned)
    if rooted:
        # What training saves beside the parameters is no part of the model.
        arrays = under_params(arrays) | {"opt/0/img/embedding/bias": np.zeros(3), "extra/step": np.zeros(())}
    with opened(saved(tmp_path / "model.npz", arrays)) as foreign:
        ours, model = model_of(foreign), foreign.spec.model
    assert model == DualEncoderConfig(
        ViTConfig(image_size=20, patch_size=10, width=36, depth=2, mlp_dim=50, num_heads=HEADS),
        TextConfig(vocab_size=VOCAB_SIZE, context_len=TEXT_LEN, width=24, depth=2, mlp_dim=28, num_heads=HEADS),
        embed_dim=36,
        logit_bias=0.0,
    )
    pixels = np.random.default_rng(0).normal(size=(3, 20, 20, 3)).astype(np.float32)
    ids = np.random.default_rng(1).integers(0, VOCAB_SIZE, (3, TEXT_LEN))
    with torch.inference_mode():
        image = theirs.get_image_features(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).pooler_output
        text = theirs.get_text_features(torch.from_numpy(ids)).pooler_output
    assert_close(ours.encode_image(jnp.asarray(pixels))[0], image)
    texts = jnp.asarray(ids, jnp.int32), jnp.ones(ids.shape, bool)
    assert_close(ours.encode_text(*texts)[0], text)
    assert ours.log_scale[...] == theirs.logit_scale.item()
    assert ours.bias() == theirs.logit_bias.item()


def vit() -> Any:
    config = transformers.ViTConfig(
        **sized(36, HEADS, 50, 2, "gelu_pytorch_tanh"), image_size=24, patch_size=8, layer_norm_eps=1e-6
    )
    return torch_models.randomised(transformers.ViTModel(config, add_pooling_layer=False))


def vit_block(state: Arrays) -> Arrays:
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    return nested(
        LayerNorm_0=norm(under(state, "layernorm_before")),
        MultiHeadDotProductAttention_0=attention(*(under(state, f"attention.{name}") for name in names)),
        LayerNorm_1=norm(under(state, "layernorm_after")),
        MlpBlock_0=mlp(state, "mlp.fc1", "mlp.fc2"),
    )


def vit_arrays(state: Arrays) -> Arrays:
    """A classifier of big_vision, whose class token has no position."""
    embeddings = under(state, "embeddings")
    positions = embeddings["position_embeddings"]
    blocks = stack([vit_block(under(state, f"layers.{i}")) for i in range(2)], scanned=False)
    return {
        "embedding/kernel": patches(embeddings["patch_embeddings.projection.weight"]),
        "embedding/bias": embeddings["patch_embeddings.projection.bias"],
        "cls": embeddings["cls_token"] + positions[:, :1],
        "pos_embedding": positions[:, 1:],
        **nested(Transformer={**blocks, **nested(encoder_norm=norm(under(state, "layernorm")))}),
        "head/kernel": np.zeros((36, 10), np.float32),
        "head/bias": np.zeros(10, np.float32),
    }


def as_first_saved(arrays: Arrays, state: Arrays) -> Arrays:
    """The same with the names of the first checkpoints, and with a position for the class token."""
    renamed = {
        name.replace("Attention_0", "Attention_1").replace("Norm_1", "Norm_2").replace("Block_0", "Block_3"): array
        for name, array in arrays.items()
    }
    del renamed["pos_embedding"]
    embeddings = under(state, "embeddings")
    positions = {"Transformer/posembed_input/pos_embedding": embeddings["position_embeddings"]}
    return {**renamed, "cls": embeddings["cls_token"], **positions}


@pytest.mark.parametrize("first", [False, True], ids=["present", "first"])
def test_a_vit_computes_what_that_of_hugging_face_does(first, tmp_path, mesh):
    del mesh
    theirs = vit()
    state = state_of(theirs)
    arrays = vit_arrays(state)
    arrays = as_first_saved(arrays, state) if first else arrays
    with opened(saved(tmp_path / "vit.npz", arrays)) as foreign:
        assert foreign.format.part == "image"
        ours = model_of(foreign)
    pixels = np.random.default_rng(0).normal(size=(3, 24, 24, 3)).astype(np.float32)
    with torch.inference_mode():
        tokens = theirs(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).last_hidden_state
    assert_close(ours(jnp.asarray(pixels))[0], tokens[:, 0])


def test_two_bytes_a_number_come_back_as_float32(theirs, tmp_path):
    arrays = siglip_arrays(state_of(theirs), scanned=True)
    rounded = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    with opened(saved(tmp_path / "model.npz", {n: array.view("V2") for n, array in rounded.items()})) as foreign:
        found = dict(parameters(foreign))
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    expected = rounded["txt/Encoder_0/encoder_norm/scale"].astype(np.float32)
    np.testing.assert_array_equal(found["text/final_norm/scale"], expected)


def test_what_is_not_there_decides_what_the_model_is(theirs, tmp_path):
    arrays = siglip_arrays(state_of(theirs), scanned=False)
    kept = {name: a for name, a in arrays.items() if name not in ("b", "txt/head/bias") and "MAPHead" not in name}
    del kept["img/pos_embedding"]
    kept["img/head/kernel"] = np.zeros((36, 36), np.float32)
    with opened(saved(tmp_path / "model.npz", kept)) as foreign:
        model = foreign.spec.model
        assert "image/positions" not in dict(parameters(foreign))
    assert (model.image.pool, model.image.position, model.logit_bias) == ("mean", "sincos2d", None)
    assert (model.image_projection, model.text_projection) == ("linear", "linear")


def test_a_run_may_start_from_a_file_of_its_model_alone(theirs, tmp_path):
    with opened(saved(tmp_path / "model.npz", siglip_arrays(state_of(theirs), scanned=True))) as foreign:
        check_model(foreign, foreign.spec.model, "both", False)
        other = DualEncoderConfig(foreign.spec.model.image, TextConfig(), 36)
        with pytest.raises(UserError, match="needs model.text.depth=2"):
            check_model(foreign, other, "both", False)
        # It brings neither a tokenizer nor the preprocessing of its images.
        with pytest.raises(UserError, match="cannot be evaluated"):
            foreign_experiment(foreign)


def test_what_is_no_file_of_two_towers_is_refused(theirs, tmp_path):
    arrays = siglip_arrays(state_of(theirs), scanned=False)

    def refusal(arrays: Arrays) -> str:
        with pytest.raises(UserError) as error, opened(saved(tmp_path / "model.npz", arrays)) as foreign:
            dict(parameters(foreign))
        return str(error.value)

    assert "has no array embedding/kernel: it holds another kind" in refusal({"w": np.zeros(3)})
    assert "tensor img/pre_logits/bias is left over" in refusal({**arrays, "img/pre_logits/bias": np.zeros(3)})
    assert "5 patches, which are no square" in refusal({**arrays, "img/pos_embedding": np.zeros((1, 5, 36))})
    assert "patches of 10 x 5" in refusal({**arrays, "img/embedding/kernel": np.zeros((10, 5, 3, 36))})
    without = {name: array for name, array in arrays.items() if name != "txt/Encoder_0/encoder_norm/bias"}
    assert "tensor txt/Encoder_0/encoder_norm/bias is missing" in refusal(without)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name, reason in (("broken.npz", "cannot be read"), ("one.npy", "holds a single array")):
        with pytest.raises(UserError, match=f"{reason}.*give an .npz file"), opened(f"big_vision:{tmp_path / name}"):
            pass
