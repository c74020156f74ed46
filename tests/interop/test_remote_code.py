"""The plain PyTorch form of our dual encoder, through a folder on disk, against the model itself."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.losses.dense import similarities
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.models.resnet import ResNetConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from tests.interop.torch_state import config_values, module_cache, random_params, save_plain_form
from tests.tolerances import MODEL, above, relative_errors

torch = pytest.importorskip("torch", reason="the plain form is PyTorch, which requirements-dev.txt installs")
transformers = pytest.importorskip("transformers")

from mmjax.interop.remote_code.configuration_mmjax import MMJaxConfig  # noqa: E402

IMAGE_SIZE, CONTEXT_LEN, VOCAB_SIZE, EOS_ID = 16, 8, 50, 49
IMAGE = ViTConfig(image_size=IMAGE_SIZE, patch_size=8, width=32, depth=2, mlp_dim=40, num_heads=4)
TEXT = TextConfig(vocab_size=VOCAB_SIZE, context_len=CONTEXT_LEN, width=32, depth=2, mlp_dim=40, num_heads=4)
ODD = {"width": 36, "depth": 3, "mlp_dim": 28, "num_heads": 3}
"""Heads of 12, which no power of two fits."""
WIDE = {"width": 40, "depth": 1, "mlp_dim": 64, "num_heads": 10}


def dual(image: dict[str, Any], text: dict[str, Any], **joint: Any) -> DualEncoderConfig:
    joint = {"embed_dim": 20, "image_projection": "linear", "text_projection": "biased"} | joint
    return DualEncoderConfig(dataclasses.replace(IMAGE, **image), dataclasses.replace(TEXT, **text), **joint)


def resnet(text: dict[str, Any], **image: Any) -> DualEncoderConfig:
    """A ResNet of odd sizes beside a text tower."""
    tower = ResNetConfig(image_size=33, image_width=45, embedding_dim=6, **image)
    return DualEncoderConfig(tower, dataclasses.replace(TEXT, **text), 20, "biased", "linear")


CONFIGS = {
    "siglip": dual({}, {}, embed_dim=32, image_projection="none"),
    "clip": dual(
        {
            "pool": "cls",
            "embedding_norm": True,
            "patch_bias": False,
            "activation": "quick_gelu",
            "norm_eps": 1e-5,
            **ODD,
        },
        {"causal": True, "pool": "eot", "eos_id": EOS_ID, "activation": "quick_gelu", **ODD},
        text_projection="linear",
        logit_bias=None,
    ),
    "hugging-face": dual(
        {"pool": "cls", "pooler": True, "activation": "gelu", **WIDE},
        {
            **{"pool": "first", "pooler": True, "num_token_types": 2, "use_mask": True, "activation": "gelu"},
            **{"norm": "post", "embedding_norm": True, "final_norm": False, **ODD},
        },
        image_projection="biased",
    ),
    "sincos": dual(
        {"position": "sincos2d", "pool": "mean", "norm": "post", "final_norm": False, "qk_norm": True, **ODD},
        {"pool": "mean", "qk_norm": True, "activation": "relu", **WIDE},
    ),
    "sincos-cls": dual(
        {"position": "sincos2d", "pool": "cls", "image_width": 40, "activation": "relu"},
        {"pool": "map", "use_mask": True, "causal": True, **ODD},
    ),
    "rectangular": dual(
        # Two rows of three patches; the pixels that fill none are left out.
        {"image_size": 19, "image_width": 29, "pool": "map", "pooler": True, "qk_norm": True, **ODD},
        {"pool": "map", "causal": True, "qk_norm": True, "num_token_types": 1},
    ),
    "group-stem": dual(
        {"stem": "conv", "image_width": 24, "pool": "concat", "activation": "relu", **WIDE},
        {"pool": "eot", "use_mask": True, "activation": "quick_gelu"},
        embed_dim=32,
        text_projection="none",
    ),
    "batch-stem": dual(
        {
            "stem": "conv",
            "stem_norm": "batch",
            "stem_residual": (1, 0, 2),
            "position": "sincos2d",
            "pool": "mean",
            **ODD,
        },
        {"pool": "last", "causal": True, "use_mask": True, "embedding_norm": True},
        logit_bias=None,
    ),
    "resnet-bottleneck": resnet({"pool": "first"}, stage_dims=(8, 12), depths=(1, 2)),
    "resnet-basic": resnet(
        {"pool": "mean", "use_mask": True},
        **{"stage_dims": (6, 10), "depths": (2, 1), "layer": "basic", "activation": "gelu"},
    ),
    "resnet-early": resnet(
        {"causal": True, "pool": "eot", "eos_id": EOS_ID},
        **{
            "stage_dims": (8, 12),
            "depths": (1, 1),
            "downsample_in_first_stage": True,
            "downsample_in_bottleneck": True,
        },
    ),
}


@pytest.fixture(autouse=True)
def own_module_cache(tmp_path: Path) -> Iterator[None]:
    with module_cache(tmp_path / "modules"):
        yield


def batch_for(config: DualEncoderConfig, num_rows: int = 5) -> dict[str, np.ndarray]:
    """Random rows: padded on the right, padded on the left, full, and in the end a text of padding alone."""
    rng = np.random.default_rng(1)
    text_mask = np.ones((num_rows, CONTEXT_LEN), bool)
    text_mask[0, 3:], text_mask[1, :4], text_mask[-1] = False, False, False
    text_ids = rng.integers(1, EOS_ID, text_mask.shape).astype(np.int32)
    text_ids[[0, 1, 2], [2, 5, 7]] = EOS_ID
    size = (config.image.image_size, config.image.image_width or config.image.image_size)
    image = rng.normal(size=(num_rows, *size, 3)).astype(np.float32)
    return {"image": image, "text_ids": text_ids, "text_mask": text_mask}


def our_results(config: DualEncoderConfig, params: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    graph = nnx.graphdef(nnx.eval_shape(lambda: DualEncoder(config, jax.random.key(0))))

    @jax.jit
    def results(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        model = nnx.merge(graph, params)
        image, image_extras = model.encode_image(batch["image"])
        text, text_extras = model.encode_text(batch["text_ids"], batch["text_mask"])
        logits = similarities(image, text) * jnp.exp(model.log_scale[...]) + model.bias()
        hidden = {"image_tokens": image_extras["tokens"], "text_tokens": text_extras["tokens"]}
        return {"image_embed": image, "text_embed": text, "logits": logits, **hidden}

    return jax.tree.map(np.asarray, results(params, batch))


def torch_inputs(batch: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        "pixel_values": torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy()),
        "input_ids": torch.from_numpy(batch["text_ids"].astype(np.int64)),
        "attention_mask": torch.from_numpy(batch["text_mask"].astype(np.int64)),
    }


@torch.no_grad()
def torch_results(model: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    inputs = torch_inputs(batch)
    image = model.get_image_features(pixel_values=inputs["pixel_values"])
    text = model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    out = model(**inputs)
    assert torch.equal(out.logits_per_text, out.logits_per_image.T)
    assert torch.equal(out.image_embeds, torch.nn.functional.normalize(image.pooler_output.float(), dim=-1))
    assert torch.equal(out.text_embeds, torch.nn.functional.normalize(text.pooler_output.float(), dim=-1))
    hidden = {"image_tokens": image.last_hidden_state, "text_tokens": text.last_hidden_state}
    results = {"image_embed": out.image_embeds, "text_embed": out.text_embeds, "logits": out.logits_per_image, **hidden}
    return {name: result.float().numpy() for name, result in results.items()}


@pytest.mark.parametrize("config", [pytest.param(config, id=name) for name, config in CONFIGS.items()])
def test_the_plain_form_equals_our_model(config, tmp_path):
    params, batch = random_params(config), batch_for(config)
    folder = save_plain_form(config, params, tmp_path / "export")
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    assert list((tmp_path / "modules").rglob("modeling_mmjax.py"))
    assert not model.training
    ours, theirs = our_results(config, params, batch), torch_results(model, batch)
    assert above(relative_errors(theirs, ours), MODEL) == {}
    for name in ("image_embed", "text_embed", "logits"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=0, atol=MODEL, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_near_and_finite(dtype, tmp_path):
    """Finite also where a text is padding alone, and so has no key to look at, which float16 cannot weigh alike."""
    config = CONFIGS["batch-stem"]
    params, batch = random_params(config), batch_for(config)
    folder = save_plain_form(config, params, tmp_path / "export")
    exact, half = (
        torch_results(transformers.AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=kind), batch)
        for kind in (torch.float32, dtype)
    )
    assert half["logits"].dtype == np.float32
    assert np.isfinite(half["logits"]).all()
    rows = slice(-1) if dtype == torch.float16 else slice(None)
    for name in ("image_embed", "text_embed"):
        error = abs(half[name][rows] - exact[name][rows]).max()
        assert error < 20 * torch.finfo(dtype).eps, name


def test_a_config_with_an_unknown_or_missing_field_is_refused():
    values = config_values(CONFIGS["siglip"])
    with pytest.raises(ValueError, match="image_config does not know stemm"):
        MMJaxConfig(**{**values, "image_config": {**values["image_config"], "stemm": "conv"}})
    with pytest.raises(ValueError, match="text_config lacks causal"):
        MMJaxConfig(**{**values, "text_config": {k: v for k, v in values["text_config"].items() if k != "causal"}})
    with pytest.raises(ValueError, match="image_config.kind is 'swin', not one of vit, resnet"):
        MMJaxConfig(**{**values, "image_config": {"kind": "swin"}})


def test_inputs_of_another_size_are_refused(tmp_path):
    config = CONFIGS["siglip"]
    folder = save_plain_form(config, random_params(config), tmp_path / "export")
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    with pytest.raises(ValueError, match=r"images of \(16, 24\) pixels, where the model takes \(16, 16\)"):
        model.get_image_features(torch.zeros(1, 3, 16, 24))
    with pytest.raises(ValueError, match="texts of 9 tokens, where the model takes at most 8"):
        model.get_text_features(torch.zeros(1, 9, dtype=torch.int64))
    without_mask = model.get_text_features(torch.ones(1, 5, dtype=torch.int64))
    assert without_mask.last_hidden_state.shape == (1, 5, 32)
