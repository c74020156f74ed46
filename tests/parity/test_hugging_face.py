"""The towers, the logits, the loss and its gradient against the PyTorch classes, from the same random weights."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from mmjax.losses import contrastive
from mmjax.losses.choice import Kind
from mmjax.losses.dense import similarities
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.nn.parameter import num_parameters
from tests import tiny
from tests.parity import torch_weights
from tests.tolerances import MODEL, above, relative_errors

torch = pytest.importorskip("torch", reason="parity needs torch, which requirements-dev.txt installs")
transformers = pytest.importorskip("transformers")

SHARED = {
    "hidden_size": tiny.SIZE["width"],
    "num_hidden_layers": tiny.SIZE["depth"],
    "intermediate_size": tiny.SIZE["mlp_dim"],
    "num_attention_heads": tiny.SIZE["num_heads"],
    "attn_implementation": "eager",
}
VISION = {**SHARED, "image_size": tiny.IMAGE_SIZE, "patch_size": 8}
TEXT = {
    **SHARED,
    "vocab_size": tiny.VOCAB_SIZE,
    "max_position_embeddings": tiny.CONTEXT_LEN,
    "bos_token_id": 0,
    "eos_token_id": tiny.EOS_ID,
}


def clip_model() -> Any:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=tiny.CLIP.embed_dim)
    return transformers.CLIPModel(config)


def siglip_model() -> Any:
    text = {**TEXT, "projection_size": tiny.SIGLIP.embed_dim}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION))


def randomised(model: Any) -> Any:
    """Every weight drawn anew, so that no bias is 0 and no norm the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def torch_batch(batch: dict[str, np.ndarray]) -> dict[str, Any]:
    pixels = (batch["image"].astype(np.float32) / 255 - 0.5) / 0.5
    return {
        "pixel_values": torch.from_numpy(pixels.transpose(0, 3, 1, 2)),
        "input_ids": torch.from_numpy(batch["text_ids"].astype(np.int64)),
    }


def torch_results(model: Any, batch: dict[str, np.ndarray], params: Any) -> dict[str, Any]:
    out = model(**torch_batch(batch), return_loss=True)
    out.loss.backward()
    grads = {name: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for name, p in model.named_parameters()}
    return {
        "image_embed": out.image_embeds.detach().numpy(),
        "text_embed": out.text_embeds.detach().numpy(),
        "logits": out.logits_per_image.detach().numpy(),
        "loss": out.loss.item(),
        "grads": params(grads),
    }


def our_results(config: DualEncoderConfig, params: Any, batch: dict[str, np.ndarray], kind: Kind) -> dict[str, Any]:
    graph = nnx.graphdef(nnx.eval_shape(lambda: DualEncoder(config, jax.random.key(0))))

    @jax.jit
    def results(params: Any) -> dict[str, Any]:
        def loss(params: Any) -> tuple[Any, dict[str, Any]]:
            model = nnx.merge(graph, params)
            image_embed, _ = model.encode_image(batch["image"])
            text_embed, _ = model.encode_text(batch["text_ids"], batch["text_mask"])
            logits = similarities(image_embed, text_embed) * jax.numpy.exp(model.log_scale[...])
            value = contrastive(image_embed, text_embed, model.log_scale[...], model.bias(), kind=kind).value
            return value, {"image_embed": image_embed, "text_embed": text_embed, "logits": logits + model.bias()}

        (value, outputs), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return {**outputs, "loss": value, "grads": grads}

    return results(params)


@pytest.mark.parametrize(
    ("config", "make_model", "params", "kind"),
    [
        pytest.param(tiny.CLIP, clip_model, torch_weights.clip_params, "softmax", id="clip"),
        pytest.param(tiny.SIGLIP, siglip_model, torch_weights.siglip_params, "sigmoid", id="siglip"),
    ],
)
def test_outputs_loss_and_gradients_equal_those_of_torch(config, make_model, params, kind):
    model = randomised(make_model())
    batch = {name: tiny.batch(8)[name] for name in ("image", "text_ids", "text_mask")}
    state = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    theirs = torch_results(model, batch, params)
    ours = our_results(config, params(state), batch, kind)
    assert above(relative_errors(ours, theirs, zero=1e-5), MODEL) == {}
    assert model.num_parameters() == num_parameters(nnx.eval_shape(lambda: DualEncoder(config, jax.random.key(0))))
