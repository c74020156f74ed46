"""Exports as the public libraries load them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from mmjax.errors import UserError
from mmjax.proof.quiet import quiet_transformers


@dataclass(frozen=True)
class Loaded:
    """An export in the hands of a public library.

    pixels: normalised floats (b, 3, y, x) of images as they come out of a file.
    tokens: ids and mask (b, t) of texts; the mask is None where the tokenizer gives none.
    image, text: features (b, d or e) of these, of any length.
    logits: (b, b) of pixels, ids and mask; None for one tower.
    mean, std: what the pixels are normalised with.
    library: what did it, with its version.
    shift: rows and columns by which it cuts the middle out of an image further down and right than training did.
    cleaned: those of some texts to which it gives other ids because it cleans them first, and what it reads instead;
        `tokens` are then those of its tokenizer without the cleaning.
    """

    pixels: Callable[[Sequence[Image.Image]], np.ndarray] | None
    tokens: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray | None]] | None
    image: Callable[[np.ndarray], np.ndarray] | None
    text: Callable[[np.ndarray, np.ndarray | None], np.ndarray] | None
    logits: Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    library: str
    shift: Callable[[Image.Image], tuple[int, int]] | None = None
    cleaned: Callable[[Sequence[str]], Mapping[str, str]] | None = None


def open_image(path: Path) -> Image.Image:
    """The picture in a file, upright."""
    return ImageOps.exif_transpose(Image.open(path))


def load(export: Path, facts: Mapping[str, Any]) -> Loaded:
    """The export, in float32 whatever type its weights are stored in.

    Raises:
        UserError: the library is not installed.
    """
    try:
        return LOADERS[facts["format"]](export, facts)
    except ImportError as error:
        needed = REQUIREMENTS[facts["format"]]
        raise UserError(
            f"{error.name} is not installed: pip install {needed}, then python -m mmjax.prove {export}"
        ) from (error)


def _hugging_face(export: Path, facts: Mapping[str, Any]) -> Loaded:
    import transformers

    with quiet_transformers():
        trust = {"trust_remote_code": True} if facts["class"] == "MMJaxDualEncoder" else {}
        model = transformers.AutoModel.from_pretrained(export, dtype=torch.float32, **_parts(facts), **trust).eval()
        processor = image_processor(export) if facts["part"] != "text" else None
        tokenizer = _tokenizer(export, trust) if facts["part"] != "image" else None
    features = _Features(model, facts)
    return Loaded(
        pixels=processor and (lambda images: processor(images=list(images), return_tensors="np")["pixel_values"]),
        tokens=tokenizer and (lambda texts: encoded(tokenizer, texts)),
        image=features.image if processor else None,
        text=features.text if tokenizer else None,
        logits=features.logits if processor and tokenizer else None,
        mean=tuple(processor.image_mean) if processor else (),
        std=tuple(processor.image_std) if processor else (),
        library=f"transformers {transformers.__version__}, torch {torch.__version__}",
    )


def _parts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A tower that was trained without a pooler is loaded without one."""
    return {} if facts.get("pooler", True) else {"add_pooling_layer": False}


def image_processor(export: Path) -> Any:
    import transformers

    return transformers.AutoImageProcessor.from_pretrained(export)


def _tokenizer(export: Path, trust: Mapping[str, bool]) -> Any:
    """It reads the model's config, and so asks on the terminal whether code may run unless it is told."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(export, **trust)


def encoded(tokenizer: Any, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    length = tokenizer.model_max_length
    encoded = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="np")
    return encoded["input_ids"], encoded.get("attention_mask")


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
            inputs = _text_inputs(ids, mask)
            output = self._model.get_text_features(**inputs) if self._part == "both" else self._model(**inputs)
            return self._pooled(output, mask).numpy()

    def logits(self, pixels: np.ndarray, ids: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        with torch.inference_mode():
            output = self._model(pixel_values=torch.from_numpy(pixels), **_text_inputs(ids, mask))
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


def _text_inputs(ids: np.ndarray, mask: np.ndarray | None) -> dict[str, torch.Tensor]:
    inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))}
    return inputs if mask is None else {**inputs, "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def _open_clip(export: Path, facts: Mapping[str, Any]) -> Loaded:
    from mmjax.proof import open_clip

    return open_clip.load(export, facts)


def _torch_export(export: Path, facts: Mapping[str, Any]) -> Loaded:
    from mmjax.proof import programs

    return programs.torch_export(export, facts)


def _onnx(export: Path, facts: Mapping[str, Any]) -> Loaded:
    from mmjax.proof import programs

    return programs.onnx(export, facts)


LOADERS: dict[str, Callable[[Path, Mapping[str, Any]], Loaded]] = {
    "huggingface": _hugging_face,
    "open_clip": _open_clip,
    "torch_export": _torch_export,
    "onnx": _onnx,
}
REQUIREMENTS = {
    "huggingface": "-r requirements-export.txt",
    "onnx": "-r requirements-export.txt",
    "torch_export": "-r requirements-export.txt",
    "open_clip": "open_clip_torch",
}
