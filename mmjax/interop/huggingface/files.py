"""The JSON files of a Hugging Face folder that all model classes share."""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.formats import Files, Spec
from mmjax.interop.huggingface import images

CONFIG, TOKENIZER = "config.json", "tokenizer_config.json"


def written_files(config: Mapping[str, Any], spec: Spec, processor: Mapping[str, Any] = {}) -> Files:
    """The files of a model: its `config`, and what its tokenizer and image processor must be told.

    Those of the tokenizer are only what the model decides; the rest is the tokenizer's own.
    """
    files: dict[str, Mapping[str, Any]] = {CONFIG: config}
    image, text = getattr(spec.model, "image", spec.model), getattr(spec.model, "text", spec.model)
    if spec.preprocess is not None:
        files[images.PREPROCESSOR] = {**images.written(spec.preprocess, image), **processor}
    if hasattr(text, "context_len"):
        files[TOKENIZER] = {
            "model_max_length": text.context_len,
            "model_input_names": _inputs(text.use_mask),
            "padding_side": "right",
            **processor,
        }
    if processor:
        files[images.PROCESSOR] = processor
    return files


def wants_mask(files: Files) -> bool:
    """Whether the tokenizer gives the model a mask, without which padding is looked at like any token.

    Folders that do not say have none: SigLIP was trained without.
    """
    return "attention_mask" in files.get(TOKENIZER, {}).get("model_input_names", ())


def _inputs(use_mask: bool) -> list[str]:
    return ["input_ids", "attention_mask"] if use_mask else ["input_ids"]
