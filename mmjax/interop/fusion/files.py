"""The folder around the config of a fusion model's class: tokenizer and image processor, the same for all of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mmjax.interop.formats import Files, Format, Spec
from mmjax.interop.huggingface import images as processors
from mmjax.interop.huggingface.files import CONFIG, TOKENIZER
from mmjax.interop.mapping import Table
from mmjax.models.fusion.image_input import ImageInputConfig
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.patches import GridInputConfig, PatchInputConfig

Config = Mapping[str, Any]
"""What `config.json` holds."""


def fusion_format(
    name: str,
    model_type: str,
    write: Callable[[FusionConfig], Config],
    read: Callable[[Config], FusionConfig],
    table: Callable[[FusionConfig], Table],
    images: tuple[type, ...],
    **tensors: Any,
) -> Format:
    """The format of the class `name`, whose `config.json` alone says the model.

    write: its fields, of any model whose image input is one of `images`, see `Format`; `read` is the way back.
    tensors: what a `Format` says of tensors beside its table.
    """

    def written(spec: Spec) -> Files:
        return _written({"architectures": [name], "model_type": model_type, **write(spec.model)}, spec)

    return Format(name, "both", written, lambda files: _read(read(files[CONFIG]), files), table, images, **tensors)


def _written(config: Config, spec: Spec) -> Files:
    files: dict[str, Config] = {
        CONFIG: config,
        TOKENIZER: {
            "model_max_length": spec.model.text.context_len,
            "model_input_names": ["input_ids", "attention_mask"],
            "padding_side": "right",
        },
    }
    if spec.preprocess is not None:
        files[processors.PREPROCESSOR] = processors.written(
            spec.preprocess, getattr(spec.model.image, "tower", spec.model.image)
        )
    return files


def _read(model: FusionConfig, files: Files) -> Spec:
    preprocess, colours = processors.read(files)
    return Spec(replace(model, image=_with_colours(model.image, colours)), preprocess)


def _with_colours(image: ImageInputConfig | None, colours: Mapping[str, Any]) -> ImageInputConfig | None:
    """The input with the normalisation of pixels that the image processor has."""
    if isinstance(image, GridInputConfig):
        return replace(image, tower=replace(image.tower, **colours))
    return replace(image, **colours) if isinstance(image, PatchInputConfig) else image
