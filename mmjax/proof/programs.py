"""Exports of `torch.export` and ONNX as their runtimes load them, behind the preprocessing of `transformers`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmjax.proof.loaded import Loaded, image_processor, through_transformers, tower_outputs
from mmjax.proof.quiet import quiet_transformers

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
"""Inputs of a program by name -> its outputs by name."""


def torch_export(export: Path, facts: Mapping[str, Any]) -> Loaded:
    """The `.pt2` files of an export."""
    del facts
    return _loaded(export, f"torch {torch.__version__}", lambda name: _torch_program(export / f"{name}.pt2"))


def onnx(export: Path, facts: Mapping[str, Any]) -> Loaded:
    """The `.onnx` files of an export, on CPU."""
    del facts
    import onnxruntime

    return _loaded(export, f"onnxruntime {onnxruntime.__version__}", lambda name: _session(export / f"{name}.onnx"))


def _torch_program(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: output.numpy() for name, output in outputs.items()}

    return run


def _session(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    # A tower that was trained without a mask has none among its inputs.
    known = {given.name for given in session.get_inputs()}

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: array for name, array in inputs.items() if name in known}
        return dict(zip(names, session.run(names, given), strict=True))

    return run


def _loaded(export: Path, library: str, program: Callable[[str], Run]) -> Loaded:
    import transformers

    with quiet_transformers():
        processor = image_processor(export)
        tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    towers = _Towers(program)
    outputs = tower_outputs(towers.image, towers.text, towers.logits)
    return through_transformers(outputs, processor, tokenizer, library)


class _Towers:
    """The three programs as functions of arrays."""

    def __init__(self, program: Callable[[str], Run]):
        self._image, self._text, self._both = (program(name) for name in ("image", "text", "both"))

    def image(self, pixels: np.ndarray) -> np.ndarray:
        return self._image({"pixel_values": pixels})["image_embeds"]

    def text(self, ids: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        return self._text(_text_inputs(ids, mask))["text_embeds"]

    def logits(self, pixels: np.ndarray, ids: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        return self._both({"pixel_values": pixels, **_text_inputs(ids, mask)})["logits_per_image"]


def _text_inputs(ids: np.ndarray, mask: np.ndarray | None) -> dict[str, np.ndarray]:
    mask = np.ones_like(ids) if mask is None else mask
    return {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}
