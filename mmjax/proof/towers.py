"""Dual encoders, and towers of them, as `transformers` loads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from mmjax.proof.loaded import Loaded, image_processor, text_tensors, through_transformers, tower_outputs
from mmjax.proof.quiet import quiet_transformers


def load(export: Path, facts: Mapping[str, Any]) -> Loaded:
    """The export, in float32."""
    with quiet_transformers():
        trust = {"trust_remote_code": True} if facts["class"] == "MMJaxDualEncoder" else {}
        model = transformers.AutoModel.from_pretrained(export, dtype=torch.float32, **_parts(facts), **trust).eval()
        processor = image_processor(export) if facts["part"] != "text" else None
        # It reads the model's config, and so asks on the terminal whether code may run unless it is told.
        tokenizer = transformers.AutoTokenizer.from_pretrained(export, **trust) if facts["part"] != "image" else None
    features = _Features(model, facts)
    outputs = tower_outputs(
        image=features.image if processor else None,
        text=features.text if tokenizer else None,
        logits=features.logits if processor and tokenizer else None,
    )
    return through_transformers(outputs, processor, tokenizer, f"torch {torch.__version__}")


def _parts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A tower that was trained without a pooler is loaded without one."""
    return {} if facts.get("pooler", True) else {"add_pooling_layer": False}


class _Features:
    """The towers of a Hugging Face model as functions of arrays."""

    def __init__(self, model: Any, facts: Mapping[str, Any]):
        self._model, self._part = model, facts["part"]
        self._pool = facts.get("pool")

    def image(self, pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            inputs = {"pixel_values": torch.from_numpy(pixels)}
            output = self._model.get_image_features(**inputs) if self._part == "both" else self._model(**inputs)
            return self._pooled(output, None).flatten(1).numpy()

    def text(self, ids: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        with torch.inference_mode():
            inputs = text_tensors(ids, mask)
            output = self._model.get_text_features(**inputs) if self._part == "both" else self._model(**inputs)
            return self._pooled(output, mask).numpy()

    def logits(self, pixels: np.ndarray, ids: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        with torch.inference_mode():
            output = self._model(pixel_values=torch.from_numpy(pixels), **text_tensors(ids, mask))
            return output.logits_per_image.numpy()

    def _pooled(self, output: Any, mask: np.ndarray | None) -> torch.Tensor:
        """What the tower's config takes of the tokens, where the class itself does not pool as it does."""
        if self._pool is None:
            return output.pooler_output
        tokens = output.last_hidden_state
        if self._pool in ("first", "cls"):
            return tokens[:, 0]
        weights = torch.from_numpy(np.asarray(mask))[:, :, None].to(tokens.dtype)
        return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)
