"""Tiny models of random weights in Hugging Face folders, and pictures to give them."""

import io
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from mmjax.proof.quiet import quiet_transformers
from tests.interop.torch_state import random_params, save_plain_form

TOKENIZER = Path(__file__).parents[2] / "mmjax" / "data" / "emoji" / "tokenizer"
TEXT_LEN, IMAGE_SIZE = 12, 32
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGE = {**TOWER, "image_size": IMAGE_SIZE, "patch_size": 8}
TEXT = {**TOWER, "vocab_size": 8192, "max_position_embeddings": TEXT_LEN}
SPECIAL = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
PROCESSOR = {
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
CLIP_PROCESSOR = {
    **PROCESSOR,
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": IMAGE_SIZE},
    "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
}


def siglip_model(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    text = {**TEXT, **SPECIAL, "projection_size": 32}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=IMAGE))


def clip_model(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = transformers.CLIPConfig(text_config={**TEXT, **SPECIAL}, vision_config=IMAGE, projection_dim=24)
    return transformers.CLIPModel(config)


def write_model(folder: Path, kind: str = "siglip", seed: int = 0) -> Path:
    with quiet_transformers():
        (siglip_model if kind == "siglip" else clip_model)(seed).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(TOKENIZER, model_max_length=TEXT_LEN).save_pretrained(folder)
    processor = PROCESSOR if kind == "siglip" else CLIP_PROCESSOR
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def write_remote_model(folder: Path) -> Path:
    """A model with a convolutional stem, which no class of the library has: the folder brings its code along."""
    tower = {"width": 32, "depth": 1, "mlp_dim": 64, "num_heads": 4}
    image = ViTConfig(image_size=IMAGE_SIZE, patch_size=8, stem="conv", position="sincos2d", pool="mean", **tower)
    text = TextConfig(vocab_size=8192, context_len=TEXT_LEN, use_mask=True, pool="mean", **tower)
    config = DualEncoderConfig(image, text, 24, "linear", "linear")
    save_plain_form(config, random_params(config), folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(TOKENIZER, model_max_length=TEXT_LEN)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def picture(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """Noise in large blocks: pictures of different seeds look different to any model."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).convert(mode)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def write_image_folder(folder: Path, count: int = 12) -> Path:
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        (folder / f"{number}.png").write_bytes(encoded(picture(number)))
        lines.append(json.dumps({"file_name": f"{number}.png", "text": [f"picture {number}", f"item of {number % 3}"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder
