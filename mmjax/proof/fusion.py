"""Fusion models as our plain PyTorch module, which serving runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from mmjax.proof.loaded import Loaded, image_processor, through_transformers
from mmjax.proof.quiet import quiet_transformers
from mmjax.proof.sample import Arrays
from mmjax.serving.models.folder import load_module
from mmjax.serving.models.fusion import Fusion, Outputs


def load(export: Path, facts: Mapping[str, Any]) -> Loaded:
    """The export, in float32."""
    del facts
    module = load_module(export).float()
    with quiet_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(export)
        # Regions come from a detector, and have no preprocessing.
        processor = image_processor(export) if hasattr(module.image, "size") else None

    def outputs(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            found = outputs_of(module, tensors(inputs))
        return {name: array.numpy() for name, array in found.items()}

    return through_transformers(outputs, processor, tokenizer, f"torch {torch.__version__}")


def tensors(inputs: Arrays) -> dict[str, Tensor]:
    """A batch as the module takes it."""
    batch = {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}
    batch = {name: x.float() if x.is_floating_point() else x for name, x in batch.items()}
    return {**batch, "text_mask": batch["text_mask"].bool()}


def outputs_of(module: Fusion, batch: Mapping[str, Tensor]) -> Outputs:
    """Both streams, what every head makes of them, and the embeddings and logits of the towers where they have any."""
    text = module.encode_text(batch["text_ids"], batch["text_mask"])
    image = None if module.image is None else module.encode_image(batch)
    streams = module.fuse(text, image)
    named = streams._asdict() | module.outputs(streams)
    if module.config.embed_dim and image is not None:
        image_features, text_features = module.embed_image(image), module.embed_text(text)
        logits = image_features @ text_features.T * module.log_scale.exp()
        named |= {"image_features": image_features, "text_features": text_features, "logits": logits}
    return {name: x for name, x in named.items() if x is not None}
