"""Hugging Face models with random weights, at shapes that are nothing special."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="interop needs torch, which requirements-dev.txt installs")
transformers = pytest.importorskip("transformers")

VOCAB_SIZE, TEXT_LEN, EOS_ID = 70, 9, 69

IDS = {"bos_token_id": 0, "eos_token_id": EOS_ID, "pad_token_id": 1}


def sized(width: int, heads: int, mlp_dim: int, depth: int, activation: str) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": mlp_dim,
        "num_hidden_layers": depth,
        "hidden_act": activation,
    }


TEXT = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": TEXT_LEN, **IDS}


def clip(
    *, activation: str = "quick_gelu", eos_id: int = EOS_ID, patch_size: int = 8, heads: tuple[int, int] = (3, 5)
) -> Any:
    """Towers of different, odd sizes; with `patch_size` 7 the patches leave pixels over."""
    text = {**TEXT, **sized(20, heads[1], 28, 1, activation), "eos_token_id": eos_id}
    vision = {**sized(36, heads[0], 50, 2, activation), "image_size": 24, "patch_size": patch_size}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))


def siglip(*, activation: str = "gelu_pytorch_tanh", heads: tuple[int, int] = (4, 2)) -> Any:
    text = {**TEXT, **sized(20, heads[1], 28, 2, activation), "projection_size": 36}
    vision = {**sized(36, heads[0], 50, 1, activation), "image_size": 20, "patch_size": 10}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))


def vit(*, activation: str = "gelu", pooler: bool = True) -> Any:
    """Of images that are wider than high."""
    config = transformers.ViTConfig(**sized(36, 3, 50, 2, activation), image_size=(16, 24), patch_size=8)
    return transformers.ViTModel(config, add_pooling_layer=pooler)


def bert(*, activation: str = "gelu", pooler: bool = True) -> Any:
    config = transformers.BertConfig(
        **sized(24, 3, 40, 2, activation), vocab_size=VOCAB_SIZE, max_position_embeddings=TEXT_LEN, pad_token_id=0
    )
    return transformers.BertModel(config, add_pooling_layer=pooler)


def masked_bert() -> Any:
    """A BERT under a head, whose tensors all have a prefix and whose last layer is tied to the embedding."""
    return transformers.BertForMaskedLM(bert().config)


def resnet(*, layer: str = "bottleneck", early: bool = False, widths: tuple[int, int] = (16, 24)) -> Any:
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=list(widths),
        depths=[1, 2],
        layer_type=layer,
        downsample_in_first_stage=early,
        downsample_in_bottleneck=early and layer == "bottleneck",
    )
    return transformers.ResNetModel(config)


def randomised(model: Any) -> Any:
    """Every weight and every running statistic drawn anew, so that no bias is 0 and no norm the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            weight += 0.1 * torch.randn(weight.shape, generator=generator).abs()
    return model.eval()


def saved(model: Any, folder: Path) -> Path:
    """The folder of a model, with an image processor where it takes images of a size."""
    model.save_pretrained(folder)
    return folder
