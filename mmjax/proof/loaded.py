"""An export in the hands of a library: what a proof asks of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image, ImageOps

from mmjax.proof.sample import Arrays


@dataclass(frozen=True)
class Loaded:
    """An export in the hands of a library.

    outputs: what the model makes of inputs, by name: `image` as `pixels` gives it, `text_ids` and `text_mask` as
        `tokens` does, and regions as a sample has them.
    pixels: normalised floats (b, 3, y, x) of images as they come out of a file; None where it looks at none.
    tokens: ids and mask (b, t) of texts; the mask is None where the tokenizer gives none.
    mean, std: what the pixels are normalised with.
    library: what did it, with its version.
    shift: rows and columns by which it cuts the middle out of an image further down and right than training did.
    cleaned: those of some texts to which it gives other ids because it cleans them first, and what it reads instead;
        `tokens` are then those of its tokenizer without the cleaning.
    """

    outputs: Callable[[Arrays], Arrays]
    pixels: Callable[[Sequence[Image.Image]], np.ndarray] | None
    tokens: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray | None]] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    library: str
    shift: Callable[[Image.Image], tuple[int, int]] | None = None
    cleaned: Callable[[Sequence[str]], Mapping[str, str]] | None = None


def open_image(path: Path) -> Image.Image:
    """The picture in a file, upright."""
    return ImageOps.exif_transpose(Image.open(path))


def through_transformers(outputs: Callable[[Arrays], Arrays], processor: Any, tokenizer: Any, runtime: str) -> Loaded:
    """A model behind an image processor and a tokenizer of `transformers`, each None where it has none.

    runtime: what runs it, with its version.
    """
    return Loaded(
        outputs=outputs,
        pixels=processor and (lambda images: processor(images=list(images), return_tensors="np")["pixel_values"]),
        tokens=tokenizer and (lambda texts: _encoded(tokenizer, texts)),
        mean=tuple(processor.image_mean) if processor else (),
        std=tuple(processor.image_std) if processor else (),
        library=f"{runtime}, transformers {transformers.__version__}",
    )


def _encoded(tokenizer: Any, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    length = tokenizer.model_max_length
    encoded = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="np")
    return encoded["input_ids"], encoded.get("attention_mask")


def image_processor(export: Path) -> Any:
    """That of a folder."""
    return transformers.AutoImageProcessor.from_pretrained(export)


Encode = Callable[..., np.ndarray]
"""Arrays to one array (b, ...); of those that are text, the mask may be None."""


def tower_outputs(image: Encode | None, text: Encode | None, logits: Encode | None) -> Callable[[Arrays], Arrays]:
    """The outputs of a dual encoder, features at length 1; of one tower, its own alone."""

    def outputs(inputs: Arrays) -> Arrays:
        texts = (inputs.get("text_ids"), inputs.get("text_mask"))
        found = {}
        if image:
            found["image_features"] = _normalised(image(inputs["image"]))
        if text:
            found["text_features"] = _normalised(text(*texts))
        if logits:
            found["logits"] = logits(inputs["image"], *texts)
        return found

    return outputs


def _normalised(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def text_tensors(ids: np.ndarray, mask: np.ndarray | None) -> dict[str, torch.Tensor]:
    """Under the names of `transformers`."""
    inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))}
    return inputs if mask is None else {**inputs, "attention_mask": torch.from_numpy(mask.astype(np.int64))}
