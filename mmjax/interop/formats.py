"""What a foreign model class is to us: its JSON files and its tensors as our configs and parameters, and back."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, NamedTuple

import numpy as np

from mmjax import config
from mmjax.data.preprocess import PreprocessConfig
from mmjax.errors import UserError
from mmjax.interop.mapping import (
    Chosen,
    Copy,
    Ignored,
    Table,
    copies_to_theirs,
    rows_to_theirs,
    to_ours,
    to_theirs,
    without_copies,
    without_ignored,
)
from mmjax.interop.normal_form import plain
from mmjax.interop.shapes import parameter_shapes
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.vit import ViTConfig

Part = Literal["both", "image", "text"]
"""The whole dual encoder, or one of its towers."""

Files = Mapping[str, Mapping[str, Any]]
"""JSON files of a folder, by name."""


class Spec(NamedTuple):
    """A model, or one of its towers, and the images that it was trained on."""

    model: Any
    """`DualEncoderConfig`, or the config of a tower; or `FusionConfig`."""
    preprocess: PreprocessConfig | None
    """None where no pixels are looked at, and where the folder does not say."""


@dataclass(frozen=True)
class Format:
    """A foreign model class.

    part: what of a dual encoder it holds; of a fusion model, always "both".
    write: its JSON files, of any model whose image is one of `images`. It need not look whether the model fits: what
        the class cannot express comes back from `read` as something else, and is refused by name (see `differences`).
    read: our configs of its files.
    table: the rows of a model; paths of one tower begin with "image/" or "text/", too.
    images: configs of the image towers, or inputs, that it may have; with `NoneType` it may have none.
    prefix: of all its tensors where a head was trained on top ("bert." in `BertForMaskedLM`); they may lack it.
    ignored: tensors that an import leaves out.
    copies: tied tensors, see `Copy`.
    unused: rows of tensors that nothing of ours fills and no result depends on, but that the class wants to load.
    again: rows of tensors that hold weights of ours a second time, as a teacher does from which training starts.
    """

    name: str
    part: Part
    write: Callable[[Spec], Files]
    read: Callable[[Files], Spec]
    table: Callable[[Any], Table]
    images: tuple[type, ...] = (ViTConfig,)
    prefix: str = ""
    ignored: tuple[Ignored, ...] = ()
    copies: tuple[Copy, ...] = ()
    unused: Callable[[Any], Table] = lambda model: ()
    again: Callable[[Any], Table] = lambda model: ()

    def tensors(self, model: Any, weights: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor of an export of `weights`, under its foreign name, one after the other.

        Raises:
            UserError: a parameter has no row, or a row has no parameter.
        """
        table = self.table(model)
        yield from to_theirs((*table, *self.unused(model)), weights)
        yield from copies_to_theirs(table, self.copies, weights)
        yield from rows_to_theirs(self.again(model), weights)

    def parameters(self, model: Any, tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """Every parameter of ours, from foreign `tensors`, one after the other.

        Raises:
            UserError: a tensor is missing, left over, of another shape than the config says, or not tied as it should.
        """
        kept, _ = without_ignored(tensors, self.ignored)
        names = without_copies(self.copies, Chosen(tensors, kept))
        yield from to_ours(self.table(model), Chosen(tensors, names), parameter_shapes(model, self.part))

    def takes_image_of(self, spec: Spec) -> bool:
        """Whether it has the model's kind of image, without which little of it can be said at all."""
        return self.part == "text" or isinstance(self._image(spec), self.images)

    def _image(self, spec: Spec) -> Any:
        return spec.model if self.part == "image" else spec.model.image

    def differences(self, spec: Spec) -> dict[str, tuple[Any, Any]]:
        """What of `spec` this class cannot express, by dotted path: our value, and what would come back.

        Raises:
            UserError: what would be written is nothing that could be read.
        """
        if not self.takes_image_of(spec):
            return {"image": (_name(type(self._image(spec))), " or ".join(map(_name, self.images)))}
        returned = self.read(self.write(spec))
        if type(returned.model) is not type(spec.model):
            return {"class": (type(spec.model).__name__, type(returned.model).__name__)}
        return config.differences(as_function(spec), as_function(returned))


def _name(image: type) -> str:
    return "none" if image is NoneType else image.__name__


def part_of(model: DualEncoderConfig, part: str) -> Any:
    """The config of the whole model, or of one tower."""
    return model if part == "both" else getattr(model, part)


def as_function(spec: Spec) -> dict[str, Any]:
    """What decides the results of a trained model, in one normal form: nothing that only training reads."""
    model = plain(config.to_dict(spec.model, object))
    return model if spec.preprocess is None else {**model, "preprocess": plain(config.to_dict(spec.preprocess))}


def choice(field: str, value: Any, known: Mapping[Any, Any]) -> Any:
    """`known[value]`.

    Raises:
        UserError: a foreign config has a value that we have no layer for.
    """
    if value not in known:
        names = ", ".join(map(str, known))
        raise UserError(f"{field} = {value!r} has no counterpart here (known: {names}): choose another checkpoint")
    return known[value]


def inverted(known: Mapping[Any, Any]) -> dict[Any, Any]:
    """Values to keys; of several keys with one value the first."""
    return {value: key for key, value in reversed(list(known.items()))}
