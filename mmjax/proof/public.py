"""Exports as libraries load them, by the kind of model and the format."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import UserError
from mmjax.proof.facts import DUAL_ENCODER, FUSION, kind_of
from mmjax.proof.loaded import Loaded

Facts = Mapping[str, Any]


def load(export: Path, facts: Facts) -> Loaded:
    """The export, in float32 whatever type its weights are stored in.

    Raises:
        UserError: the library is not installed, or none can load it.
    """
    format = facts["format"]
    if (kind_of(facts), format) not in LOADERS:
        raise UserError(
            f"{export} has its weights under the names of its authors' code, which are read back with JAX: python -m "
            f"mmjax.export --to {format} proves them as it writes them"
        )
    try:
        return LOADERS[kind_of(facts), format](export, facts)
    except ImportError as error:
        needed = "open_clip_torch" if format == "open_clip" else "-r requirements-export.txt"
        raise UserError(
            f"{error.name} is not installed: pip install {needed}, then python -m mmjax.prove {export}"
        ) from (error)


def _towers(export: Path, facts: Facts) -> Loaded:
    from mmjax.proof import towers

    return towers.load(export, facts)


def _open_clip(export: Path, facts: Facts) -> Loaded:
    from mmjax.proof import open_clip

    return open_clip.load(export, facts)


def _torch_export(export: Path, facts: Facts) -> Loaded:
    from mmjax.proof import programs

    return programs.torch_export(export, facts)


def _onnx(export: Path, facts: Facts) -> Loaded:
    from mmjax.proof import programs

    return programs.onnx(export, facts)


def _fusion(export: Path, facts: Facts) -> Loaded:
    from mmjax.proof import fusion

    return fusion.load(export, facts)


def _fusion_classes(export: Path, facts: Facts) -> Loaded:
    from mmjax.proof import fusion_classes

    return fusion_classes.load(export, facts)


LOADERS: dict[tuple[str, str], Callable[[Path, Facts], Loaded]] = {
    (DUAL_ENCODER, "huggingface"): _towers,
    (DUAL_ENCODER, "open_clip"): _open_clip,
    (DUAL_ENCODER, "torch_export"): _torch_export,
    (DUAL_ENCODER, "onnx"): _onnx,
    (FUSION, "mmjax"): _fusion,
    (FUSION, "huggingface"): _fusion_classes,
}
