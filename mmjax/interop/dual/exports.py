"""Dual encoders as folders of public libraries: weights, configs, tokenizer, facts and model card."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.interop.export_folder import CARD, Trained, chosen, nearest, obstacles, write_facts, write_files
from mmjax.interop.formats import Files, Format, Part, Spec, part_of
from mmjax.interop.huggingface.bert import BERT
from mmjax.interop.huggingface.clip import CLIP
from mmjax.interop.huggingface.files import CONFIG
from mmjax.interop.huggingface.resnet import RESNET
from mmjax.interop.huggingface.siglip import SIGLIP
from mmjax.interop.huggingface.vit import VIT
from mmjax.interop.mapping import Chosen
from mmjax.interop.open_clip import files as open_clip_files
from mmjax.interop.open_clip.format import format_for
from mmjax.interop.remote_code.format import CODE, MMJAX
from mmjax.interop.tensors import INDEX, MAX_FILE_BYTES, SINGLE, write_tensors
from mmjax.proof.facts import FACTS, read_facts

HUGGING_FACE: dict[Part, tuple[Format, ...]] = {"both": (CLIP, SIGLIP, MMJAX), "image": (VIT, RESNET), "text": (BERT,)}
"""The classes that may hold a model, or one of its towers; the first that can express it is written."""

REMEDY = "export it with --to huggingface and --part both, which can express every model"


def write_hugging_face(
    folder: Path, trained: Trained, part: Part, dtype: str, max_file_bytes: int = MAX_FILE_BYTES
) -> str:
    """Writes the model, or one tower, into the empty `folder`; a line that says what it was written as.

    Raises:
        UserError: no class of Hugging Face can express the tower; a parameter is missing or left over.
    """
    spec = _part_spec(trained.spec, part)
    format = chosen(HUGGING_FACE[part], spec, REMEDY)
    tensors = format.tensors(spec.model, _of_part(trained.weights, part))
    write_tensors(folder, tensors, dtype, max_file_bytes)
    if part != "image":
        trained.tokenizer.save(folder)
    write_files(folder, with_special_ids(format.write(spec), trained.tokenizer))
    about: dict[str, Any] = {"format": "huggingface", "class": format.name, "part": part, "dtype": dtype}
    if part != "both":
        about |= {"pool": None if _is_pooled(spec.model) else spec.model.pool, "pooler": _is_pooled(spec.model)}
    write_facts(folder, trained, about)
    if format is not MMJAX:
        return f"written as {format.name}"
    MMJAX.copy_code(folder)
    plain = {other.name: obstacles(other, spec) for other in HUGGING_FACE[part] if other is not MMJAX}
    return f"written as {format.name}, which loads with trust_remote_code=True, as {nearest(plain)}"


def write_open_clip(folder: Path, trained: Trained, part: Part, dtype: str) -> str:
    """Writes the model into the empty `folder`; a line that says what it was written as.

    The weights are one file, however large: open_clip reads no others.

    Raises:
        UserError: open_clip cannot express the model; a parameter is missing or left over.
    """
    if part != "both":
        raise UserError(f"open_clip has no models of one tower: export the {part} tower with --to huggingface")
    format = chosen((format_for(trained.spec.model),), trained.spec, REMEDY)
    write_tensors(folder, format.tensors(trained.spec.model, trained.weights), dtype, sys.maxsize)
    (folder / SINGLE).replace(folder / open_clip_files.WEIGHTS[0])
    trained.tokenizer.save(folder)
    write_files(folder, format.write(trained.spec))
    write_facts(folder, trained, {"format": "open_clip", "class": format.name, "part": part, "dtype": dtype})
    return f"written as {format.name} of open_clip"


def write_programs(folder: Path, trained: Trained, kind: str, dtype: str) -> str:
    """Writes a program for each tower and for both, of `kind` "onnx" or "torch_export", into the empty `folder`.

    Tokenizer and image processor stand beside them, for `transformers`; a line says what was written.

    Raises:
        UserError: PyTorch or a library is missing, or cannot run the program in this type.
    """
    from mmjax.interop import programs  # Here, because it needs PyTorch.

    with tempfile.TemporaryDirectory(dir=folder) as place:
        source = Path(place)
        write_hugging_face(source, trained, "both", dtype)
        {"onnx": programs.write_onnx, "torch_export": programs.write_torch_export}[kind](source, folder)
        for path in source.iterdir():
            if path.suffix not in (".safetensors", ".py") and path.name not in (CONFIG, INDEX, FACTS, CARD):
                path.replace(folder / path.name)
        held = read_facts(source)["class"]
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".onnx", ".pt2"))
    write_facts(folder, trained, {"format": kind, "class": held, "part": "both", "dtype": dtype})
    return f"written as {', '.join(names)}"


def brings_code(folder: Path) -> bool:
    """Whether an export loads with `trust_remote_code=True` alone."""
    return all((folder / name).exists() for name in CODE)


def write_programs_beside(folder: Path, dtype: str) -> str:
    """Programs of both kinds in a folder `programs` of a Hugging Face folder; a line that says so.

    For models that bring their own code: programs need none. ONNX has no bfloat16 on CPU and is left out in it.
    """
    from mmjax.interop import programs  # Here, because it needs PyTorch.

    out = folder / "programs"
    out.mkdir()
    programs.write_torch_export(folder, out)
    if dtype == "bfloat16":
        return "torch.export programs lie in programs/; ONNX Runtime has no bfloat16 on CPU"
    programs.write_onnx(folder, out)
    return "torch.export and ONNX programs lie in programs/"


def _is_pooled(tower: Any) -> bool:
    """Whether the class itself gives the features of a tower, and not only its tokens."""
    return getattr(tower, "pooler", True)


def with_special_ids(files: Files, tokenizer: Tokenizer) -> Files:
    """The files with the tokenizer's ids in the config of the text tower, where the class has not set its own."""
    config = files[CONFIG]
    ids = {"pad_token_id": tokenizer.pad_id, "eos_token_id": tokenizer.eos_id, "bos_token_id": None}
    if "text_config" in config and "auto_map" not in config:
        config = {**config, "text_config": {**ids, **config["text_config"]}}
    return {**files, CONFIG: config}


def _part_spec(spec: Spec, part: Part) -> Spec:
    return Spec(part_of(spec.model, part), None if part == "text" else spec.preprocess)


def _of_part(weights: Mapping[str, np.ndarray], part: Part) -> Mapping[str, np.ndarray]:
    if part == "both":
        return weights
    return Chosen(weights, [path for path in weights if path.startswith(f"{part}/")])
