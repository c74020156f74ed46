"""The module of a folder that `python -m mmjax.export --to mmjax` wrote."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmjax.serving.models.fusion import Fusion

MODEL_TYPE = "mmjax_fusion"
"""Of a fusion model, in `config.json`, which has its config as `MODEL`."""
MODEL = "model"
CONFIG = "config.json"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"


def load_module(folder: Path) -> Fusion:
    """The module, in evaluation and in the type that its weights are stored in.

    Raises:
        UserError: a field of the config is missing or unknown.
        OSError, ValueError, KeyError, RuntimeError: something else is missing or broken.
    """
    values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    with torch.device("meta"):
        module = Fusion(values[MODEL])
    module.load_state_dict(_weights(folder), strict=True, assign=True)
    return module.eval()


def _weights(folder: Path) -> dict[str, Tensor]:
    names = [WEIGHTS]
    if (folder / WEIGHTS_INDEX).exists():
        names = sorted(set(json.loads((folder / WEIGHTS_INDEX).read_text())["weight_map"].values()))
    try:
        return {name: tensor for file in names for name, tensor in load_file(folder / Path(file).name).items()}
    except SafetensorError as error:
        raise ValueError(f"its weights are damaged: {error}") from error
