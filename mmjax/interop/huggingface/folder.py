"""A Hugging Face folder, understood: which class it holds, its files, and its defaults filled in."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mmjax.config import suggestion
from mmjax.errors import UserError
from mmjax.interop.formats import Files, Format
from mmjax.interop.huggingface import images
from mmjax.interop.huggingface.bert import BERT
from mmjax.interop.huggingface.clip import CLIP
from mmjax.interop.huggingface.files import CONFIG, TOKENIZER
from mmjax.interop.huggingface.resnet import RESNET
from mmjax.interop.huggingface.siglip import SIGLIP
from mmjax.interop.huggingface.vit import VIT

BY_MODEL_TYPE: dict[str, Format] = {"clip": CLIP, "siglip": SIGLIP, "vit": VIT, "bert": BERT, "resnet": RESNET}


def read_folder(
    folder: Path, formats: Mapping[str, Format] = BY_MODEL_TYPE, complete: Collection[str] = ()
) -> tuple[Format, Files]:
    """The format of a folder and its JSON files, the config with all that it leaves to the defaults of its class.

    formats: those that it may have, by the type of model that `config.json` names.
    complete: types whose configs leave nothing out, as `transformers` does not know them.

    Raises:
        UserError: it is no such folder, or holds a model of a class that is not known here.
    """
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} has no {CONFIG}: give a folder that save_pretrained of transformers wrote")
    model_type = _read_json(folder / CONFIG).get("model_type", "")
    if model_type not in formats:
        raise UserError(f"{folder} holds a model of type {model_type!r}: {suggestion(model_type, formats)}")
    names = (TOKENIZER, images.PREPROCESSOR, images.PROCESSOR)
    files = {name: _read_json(folder / name) for name in names if (folder / name).exists()}
    config = _read_json(folder / CONFIG) if model_type in complete else _with_defaults(folder)
    return formats[model_type], {**files, CONFIG: config}


def _with_defaults(folder: Path) -> dict[str, Any]:
    from transformers import AutoConfig  # Here, because it takes seconds to import.

    try:
        return AutoConfig.from_pretrained(folder).to_dict()
    except (ValueError, OSError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{folder / CONFIG} cannot be read ({reason}): correct it") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it from where it came") from error
