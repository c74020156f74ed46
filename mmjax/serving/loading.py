"""A folder as a model that can be served: a dual encoder, or a fusion model of ours."""

from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from mmjax.errors import UserError
from mmjax.proof.quiet import quiet_transformers
from mmjax.serving import model as dual_encoders
from mmjax.serving.fusion_model import MATCH_CLASS, FusionModel
from mmjax.serving.model import DTYPES, REMEDY, Embedder, ModelConfig, Rows, explained, read_config
from mmjax.serving.models.folder import MODEL_TYPE, load_module
from mmjax.serving.models.fusion import Fusion
from mmjax.serving.quantize import quantize_linears


def load(config: ModelConfig) -> Embedder | FusionModel:
    """The model of a folder, ready to answer.

    Raises:
        UserError: the folder holds neither a dual encoder nor a fusion model, or not all that belongs to it.
    """
    is_fusion = read_config(config.folder).get("model_type") == MODEL_TYPE
    return load_fusion(config) if is_fusion else dual_encoders.load(config)


def load_embedder(config: ModelConfig) -> Embedder | FusionModel:
    """The same for images and texts that are to be embedded.

    Raises:
        UserError: also where the model embeds none, or no images of pixels.
    """
    model = load(config)
    if not model.embed_dim or model.image_size is None:
        raise UserError(f"{config.folder} holds a model that does not embed images: {REMEDY}")
    return model


def load_fusion(config: ModelConfig) -> FusionModel:
    """The fusion model of a folder, ready to answer.

    Raises:
        UserError: the folder does not hold a fusion model that answers anything, with its tokenizer and, where it looks
            at pixels, its image preprocessing.
    """
    with quiet_transformers(), explained(config.folder):
        model = load_module(config.folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(config.folder, trust_remote_code=False)
        processor = _processor(model, config.folder)
    _check(model, tokenizer, config.folder)
    model = model.to(config.device, DTYPES[config.dtype])
    served = FusionModel(quantize_linears(model) if config.quantize else model, processor, tokenizer, config)
    _try(served)
    return served


def _processor(model: Fusion, folder: Path) -> Any:
    """The preprocessing of pixels, as Pillow does it; None of a model of regions."""
    if getattr(model.image, "size", None) is None:
        return None
    return transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")


def _check(model: Fusion, tokenizer: Any, folder: Path) -> None:
    parts = model.config
    if parts.image is None:
        raise UserError(f"{folder} holds a model of texts alone: {REMEDY}")
    if not (parts.heads.tokens or parts.heads.num_pair_classes > MATCH_CLASS or parts.embed_dim):
        raise UserError(f"{folder} holds a model that neither matches, nor fills masks, nor embeds: {REMEDY}")
    if len(tokenizer) > parts.text.vocab_size:
        problem = f"its tokenizer has {len(tokenizer)} words, its model {parts.text.vocab_size}"
        raise UserError(
            f"{folder} cannot be served, as {problem}: put the tokenizer there that the model was made with"
        )
    if tokenizer.pad_token_id is None:
        raise UserError(f"{folder} has a tokenizer without padding: name a pad_token in its tokenizer_config.json")


def _try(model: FusionModel) -> None:
    """Answers once: what cannot answer fails at start."""
    with explained(model.config.folder):
        if model.takes_regions:
            image: Rows = {
                "region_features": torch.zeros(1, 1, model.feature_dim or 0),
                "region_boxes": torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]),
                "region_mask": torch.ones(1, 1, dtype=torch.bool),
            }
        else:
            image = model.prepare_image(Image.new("RGB", (8, 8)))
        rows = model.beside(model.prepare_texts(["a"]), image, model.encode_tokens(image))
        if model.can_match:
            model.match(rows)
        if model.can_fill:
            model.fill({**rows, "places": torch.zeros(1, 1, dtype=torch.int64)}, 1)
        if model.embed_dim:
            model.encode_texts(rows)
