"""A folder of open_clip: its config and its weights."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmjax.errors import UserError
from mmjax.interop.formats import Format
from mmjax.interop.open_clip.format import CLIP, CONFIG, CUSTOM_TEXT_CLIP
from mmjax.interop.tensors import Tensors

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
"""In the order in which open_clip looks for them. It reads one file, never several with an index."""


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a folder.

    Raises:
        UserError: there is none, or it describes no model of two towers.
    """
    path = folder / CONFIG
    if not path.exists():
        raise UserError(f"{folder} has no {CONFIG}: give a folder that open_clip loads as local-dir:{folder}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it from where it came") from error
    missing = {"embed_dim", "vision_cfg", "text_cfg"} - config.get("model_cfg", {}).keys()
    if missing:
        raise UserError(f"{path} has no model_cfg.{sorted(missing)[0]}: restore it from where it came")
    return config


def weights_file(folder: Path) -> Path:
    """The file that open_clip would read.

    Raises:
        UserError: there is none, or only a pickled one.
    """
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    pickled = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
    remedy = "save the weights again as safetensors" if pickled else "give a folder that holds weights"
    raise UserError(f"{folder / WEIGHTS[0]} does not exist: {remedy}")


@contextmanager
def opened_folder(folder: Path) -> Iterator[tuple[Format, dict[str, Any], Tensors]]:
    """The class of the model in a folder, its JSON files and its tensors."""
    files = {CONFIG: read_config(folder)}
    with Tensors(weights_file(folder)) as tensors:
        # What the file says counts: open_clip, too, takes a text tower of either kind of names.
        has_custom_text = any(name.startswith("text.") for name in tensors)
        yield CUSTOM_TEXT_CLIP if has_custom_text else CLIP, files, tensors
