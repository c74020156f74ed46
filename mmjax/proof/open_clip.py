"""Exports as open_clip loads them: `open_clip.create_model_and_transforms("local-dir:DIR")`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmjax.proof.loaded import Loaded, tower_outputs


def load(export: Path, facts: Mapping[str, Any]) -> Loaded:
    """The export, in float32.

    Images are given to the library upright and on white: it takes no notice of EXIF, and drops transparency. What it
    does otherwise than training did cannot be switched off, and is stated: see `_shift` and `_cleaned`.
    """
    import open_clip

    del facts
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{export}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{export}")
    normalisation = model.visual.preprocess_cfg
    outputs = tower_outputs(
        image=lambda pixels: _no_grad(model.eval().encode_image, pixels),
        text=lambda ids, _: _no_grad(model.eval().encode_text, ids),
        logits=lambda pixels, ids, _: _no_grad(lambda *inputs: model.eval().get_logits(*inputs)[0], pixels, ids),
    )
    return Loaded(
        outputs=outputs,
        pixels=lambda images: torch.stack([transform(_on_white(image)) for image in images]).numpy(),
        tokens=lambda texts: (_without_cleaning(tokenizer, texts), None),
        mean=tuple(normalisation["mean"]),
        std=tuple(normalisation["std"]),
        library=f"open_clip {open_clip.__version__}, torch {torch.__version__}",
        shift=functools.partial(_shift, normalisation["resize_mode"], model.visual.image_size),
        cleaned=functools.partial(_cleaned, tokenizer),
    )


def _no_grad(function: Callable[..., torch.Tensor], *arrays: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return function(*map(torch.from_numpy, arrays)).numpy()


def _on_white(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    canvas = Image.new("RGBA", layer.size, "white")
    canvas.alpha_composite(layer)
    return canvas.convert("RGB")


def _shift(resize_mode: str, image_size: Sequence[int], image: Image.Image) -> tuple[int, int]:
    """How many rows and columns further down and right torchvision cuts the middle out than training did.

    Where an odd number of pixels is cut away, the smaller half is in front in training; torchvision rounds the half of
    it, to the even number: once in two the larger half is in front.
    """
    if resize_mode != "shortest":
        return 0, 0
    left_over = [int(image_size[0] * side / min(image.size)) - image_size[0] for side in image.size]
    right, down = (round(pixels / 2) - pixels // 2 for pixels in left_over)
    return down, right


def _without_cleaning(tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """The ids (b, t) that the tokenizer in the folder gives the texts as they are."""
    length = tokenizer.context_length
    encoded = tokenizer.tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="np"
    )
    return encoded["input_ids"]


def _cleaned(tokenizer: Any, texts: Sequence[str]) -> dict[str, str]:
    """What open_clip reads instead of those texts whose ids its cleaning changes (ftfy, HTML entities, white space)."""
    changed = (tokenizer(list(texts)).numpy() != _without_cleaning(tokenizer, texts)).any(axis=1)
    return {text: tokenizer.clean_fn(text) for text, is_changed in zip(texts, changed, strict=True) if is_changed}
