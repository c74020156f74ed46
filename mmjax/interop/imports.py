"""Foreign checkpoints as parameters of ours: `hf:DIR`, `open_clip:DIR`, `big_vision:FILE`."""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mmjax import config
from mmjax.config import suggestion
from mmjax.data.placement import place_whole
from mmjax.errors import UserError
from mmjax.interop.big_vision import opened_file
from mmjax.interop.formats import Format, Spec, as_function, part_of
from mmjax.interop.fusion.folder import read_fusion_folder
from mmjax.interop.fusion.init import taken, whole
from mmjax.interop.huggingface.folder import read_folder
from mmjax.interop.layouts import Shape
from mmjax.interop.mapping import without_ignored
from mmjax.interop.open_clip.files import opened_folder
from mmjax.interop.shapes import parameter_shapes
from mmjax.interop.sizes import SIZE_FIELDS, resized
from mmjax.interop.tensors import Tensors
from mmjax.models.base import ModelConfig
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.vit import ViTConfig
from mmjax.optim import paths
from mmjax.proof.facts import FACTS, FUSION, kind_of, read_facts
from mmjax.types import Array, Params

HEADS = re.compile(r"(image|text)/(pool|pooler)/.*|(image|text)_projection/.*|log_scale|logit_bias")
"""What `init.backbone_only` leaves as it was born: all that comes after the last layer norm."""
FEW_NAMES = 8
"""Of tensors that are left out for one reason: so many are named."""
POOL_FIELDS = ("pool", "pooler")
"""May differ where the checkpoint is one tower: how its tokens are pooled is the config's to choose."""
JOINT_FIELDS = ("embed_dim", "image_projection", "text_projection", "logit_bias")
"""May differ, with the pools, where the backbone alone is taken."""


@dataclass(frozen=True)
class InitConfig:
    """What parameters start from, where it is not chance.

    source: a whole model: "hf:DIR", a folder that `transformers` wrote (CLIPModel, SiglipModel; of fusion models
        BertForPreTraining, LxmertForPreTraining, ViltModel, VisualBertForPreTraining) or `mmjax.export` (any fusion
        model); "open_clip:DIR", or "big_vision:FILE.npz".
    image_source, text_source: one tower, from a model of that tower alone (ViTModel, ResNetModel; BertModel) or from a
        whole one. They win over `source`.
    backbone_only: takes the layers alone; what pools them, the projections, the heads of a fusion model and the scale
        of the loss are born anew.
    """

    source: str | None = None
    image_source: str | None = None
    text_source: str | None = None
    backbone_only: bool = False

    @property
    def is_given(self) -> bool:
        return any((self.source, self.image_source, self.text_source))


class Foreign(NamedTuple):
    """A foreign checkpoint, understood but not read."""

    source: str
    format: Format
    spec: Spec
    tensors: Mapping[str, np.ndarray]
    """By foreign name, each read when it is asked for."""
    tokenizer: str
    """What `data.tokenizer` would call its tokenizer; nothing where the checkpoint brings none."""


@contextlib.contextmanager
def opened(source: str) -> Iterator[Foreign]:
    """The checkpoint called `source`.

    Raises:
        UserError: there is none, it is broken, or of a class that has no counterpart here.
    """
    kind, path = _place(source, OPENERS)
    with OPENERS[kind](path) as foreign:
        yield foreign


@contextlib.contextmanager
def opened_export(source: str) -> Iterator[Foreign]:
    """As `opened`, of whole models; also a fusion model that `mmjax.export` wrote."""
    kind, path = _place(source, OPENERS)
    is_fusion = kind == "hf" and (path / FACTS).exists() and kind_of(read_facts(path)) == FUSION
    with (_opened_fusion if is_fusion else opened)(source) as foreign:
        yield foreign


def _place(source: str, kinds: Collection[str]) -> tuple[str, Path]:
    """The kind of a checkpoint, and where it lies."""
    kind, _, place = source.partition(":")
    if kind not in kinds or not place:
        raise UserError(f"{source!r} is no checkpoint: {suggestion(kind, kinds)} (written as hf:DIR)")
    path = Path(place).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist: give an existing folder or file as {kind}:PATH")
    return kind, path


@contextlib.contextmanager
def _hugging_face(folder: Path) -> Iterator[Foreign]:
    format, files = read_folder(folder)
    with Tensors(folder, format.prefix) as tensors:
        yield Foreign(f"hf:{folder}", format, _with_pooler(format.read(files), tensors), tensors, str(folder))


@contextlib.contextmanager
def _opened_fusion(source: str) -> Iterator[Foreign]:
    """The whole fusion model called `source`; raises as `opened`."""
    _, folder = _place(source, ("hf",))
    format, files = read_fusion_folder(folder)
    with Tensors(folder, format.prefix) as tensors:
        yield Foreign(source, format, format.read(files), tensors, str(folder))


@contextlib.contextmanager
def _open_clip(folder: Path) -> Iterator[Foreign]:
    with opened_folder(folder) as (format, files, tensors):
        yield Foreign(f"open_clip:{folder}", format, format.read(files), tensors, str(folder))


@contextlib.contextmanager
def _big_vision(file: Path) -> Iterator[Foreign]:
    with opened_file(file) as (format, spec, tensors):
        yield Foreign(f"big_vision:{file}", format, spec, tensors, tokenizer="")


OPENERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Foreign]]] = {
    "hf": _hugging_face,
    "open_clip": _open_clip,
    "big_vision": _big_vision,
}


def parameters(foreign: Foreign) -> Iterator[tuple[str, np.ndarray]]:
    """Every parameter of `foreign` under our path, float32, one after the other.

    Raises:
        UserError: a tensor is missing, left over or of another shape than its config says.
    """
    yield from foreign.format.parameters(foreign.spec.model, foreign.tensors)


def shapes_of(foreign: Foreign) -> dict[str, Shape]:
    """The shapes of our parameters that `foreign` fills."""
    return parameter_shapes(foreign.spec.model, foreign.format.part)


def initialised(params: Params, init: InitConfig, model: ModelConfig, say: Callable[[str], None]) -> Params:
    """`params` of a new `model`, with the values that `init` names put in their places and shardings.

    It says of each source what was taken and what was left.

    Raises:
        UserError: a checkpoint is not of this model, or cannot be read.
    """
    leaves = paths.leaves(params)
    if isinstance(model, FusionConfig):
        found = _whole(leaves, init, model, say) | _streams(leaves, init, model, say)
        return paths.map_leaves(lambda path, leaf: found.get(path, leaf), params)
    assert isinstance(model, DualEncoderConfig)
    found = {}
    sources = (("both", init.source), ("image", init.image_source), ("text", init.text_source))
    for part, source in sources:
        if source is not None:
            with opened(source) as foreign:
                arrays = _placed(foreign, part, init.backbone_only, model, leaves)
                say(_account(foreign, arrays))
                found |= arrays
    return paths.map_leaves(lambda path, leaf: found.get(path, leaf), params)


def _whole(
    leaves: Mapping[str, Array], init: InitConfig, model: FusionConfig, say: Callable[[str], None]
) -> dict[str, Array]:
    """The parameters that a fusion model and the whole one that it starts from have both."""
    if init.source is None:
        return {}
    with _opened_fusion(init.source) as foreign:
        shapes = {path: leaf.shape for path, leaf in leaves.items()}
        arrays = whole(model, foreign.spec.model, parameters(foreign), shapes, backbone_only=init.backbone_only)
        found = {path: _like(leaves[path], path, array) for path, array in arrays.items()}
        born = ", ".join(path for path in leaves if path not in found) or "nothing"
        say(f"{_account(foreign, found)}; born anew: {born}")
    return found


def _streams(
    leaves: Mapping[str, Array], init: InitConfig, model: FusionConfig, say: Callable[[str], None]
) -> dict[str, Array]:
    """The parameters of a fusion model's streams that a BERT, a ViT or a ResNet gives."""
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    found: dict[str, Array] = {}
    for name, source in (("text", init.text_source), ("image", init.image_source)):
        if source is not None:
            with opened(source) as foreign:
                arrays = taken(model, name, foreign.spec.model, foreign.tensors, shapes)  # type: ignore[arg-type]
                found |= {path: _like(leaves[path], path, array) for path, array in arrays.items()}
                say(f"{foreign.source} ({foreign.format.name}): {len(arrays)} parameters of the {name} stream taken")
    return found


def loaded(foreign: Foreign, specs: Params, mesh: jax.sharding.Mesh) -> Params:
    """The parameters of a whole foreign model, each in its place on the mesh."""
    placed = {}
    leaves = paths.leaves(specs)
    for path, array in parameters(foreign):
        placed[path] = place_whole(array, jax.sharding.NamedSharding(mesh, leaves[path]))
    return paths.map_leaves(lambda path, _: placed[path], specs)


def _placed(
    foreign: Foreign, part: str, backbone_only: bool, model: DualEncoderConfig, leaves: Mapping[str, Array]
) -> dict[str, Array]:
    """The arrays of `leaves` that `foreign` gives for `part`."""
    _check_part(foreign, part)
    check_model(foreign, model, part, backbone_only)
    wanted = {path for path in leaves if _is_wanted(path, part, backbone_only)}
    missing = sorted(wanted - shapes_of(foreign).keys())
    if missing:
        raise UserError(
            f"{foreign.source} ({foreign.format.name}) has no {missing[0]}: set init.backbone_only, or choose a model "
            "without it"
        )
    fitted = ((path, _fitted(path, array, foreign, model)) for path, array in parameters(foreign) if path in wanted)
    return {path: _like(leaves[path], path, array) for path, array in fitted}


def _is_wanted(path: str, part: str, backbone_only: bool) -> bool:
    if backbone_only and HEADS.fullmatch(path):
        return False
    return part == "both" or path.startswith(f"{part}/")


def _check_part(foreign: Foreign, part: str) -> None:
    if foreign.format.part not in ("both", part):
        key = "init.source" if part == "both" else f"init.{part}_source"
        remedy = f"name it as init.{foreign.format.part}_source"
        raise UserError(f"{key} = {foreign.source!r} is a {foreign.format.name}, one tower of another kind: {remedy}")


def check_model(foreign: Foreign, model: DualEncoderConfig, part: str, backbone_only: bool) -> None:
    """Refuses a checkpoint whose `part` computes something else than that of `model`.

    Raises:
        UserError: naming the fields of the config that differ, and their values in the checkpoint.
    """
    theirs = _tower(foreign, part)
    differing = config.differences(as_function(Spec(part_of(model, part), None)), as_function(Spec(theirs, None)))
    free = _may_differ(foreign, backbone_only)
    refused = {field: values for field, values in differing.items() if field.rpartition(".")[2] not in free}
    if refused:
        prefix = "model" if part == "both" else f"model.{part}"
        shown = ", ".join(f"{prefix}.{field}={found!r}" for field, (_, found) in sorted(refused.items()))
        raise UserError(f"{foreign.source} is not of this config: it needs {shown}")


def _tower(foreign: Foreign, part: str) -> Any:
    return foreign.spec.model if foreign.format.part != "both" else part_of(foreign.spec.model, part)


def _may_differ(foreign: Foreign, backbone_only: bool) -> tuple[str, ...]:
    """Names of fields that need not agree."""
    pools = POOL_FIELDS if backbone_only or foreign.format.part != "both" else ()
    return (*SIZE_FIELDS, *pools, *(JOINT_FIELDS if backbone_only else ()))


def _fitted(path: str, array: np.ndarray, foreign: Foreign, model: DualEncoderConfig) -> np.ndarray:
    """Position tables in the size of `model`: resized over the image, cut after the last token."""
    if path == "image/positions":
        ours, theirs = model.image, _tower(foreign, "image")
        assert isinstance(ours, ViTConfig), "only its patches have positions"
        return resized(array, theirs, ours)
    if path == "text/positions":
        return array[: model.text.context_len]
    return array


def _account(foreign: Foreign, taken: Mapping[str, Array]) -> str:
    """What was taken of a checkpoint and what was not, in a line."""
    left = [path for path in shapes_of(foreign) if path not in taken]
    _, ignored = without_ignored(foreign.tensors, foreign.format.ignored)
    named = ", ".join((*left, *_in_few_words(ignored))) or "nothing"
    return f"{foreign.source} ({foreign.format.name}): {len(taken)} parameters taken; left out: {named}"


def _in_few_words(ignored: Mapping[str, str]) -> Iterator[str]:
    """Names of tensors with the reason why each is left out: of a reason that many have, their number."""
    for reason in dict.fromkeys(ignored.values()):
        names = [name for name in ignored if ignored[name] == reason]
        yield ", ".join(names) if len(names) <= FEW_NAMES else f"{len(names)} tensors ({reason})"


def _like(leaf: Array, path: str, array: np.ndarray) -> Array:
    """`array` in the type and sharding of `leaf`."""
    if array.shape != leaf.shape:
        raise UserError(f"{path} of the checkpoint has shape {array.shape}, not {leaf.shape}: make the config agree")
    return place_whole(array.astype(leaf.dtype), leaf.sharding)


def _with_pooler(spec: Spec, tensors: Mapping[str, np.ndarray]) -> Spec:
    """The spec of a tower with a pooler only where the checkpoint has one."""
    if not hasattr(spec.model, "pooler"):
        return spec
    return spec._replace(model=replace(spec.model, pooler="pooler.dense.weight" in tensors))
