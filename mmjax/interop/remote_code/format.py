"""`MMJaxDualEncoder`: any dual encoder of ours, as a folder that brings its own small PyTorch module.

For what no class of Hugging Face can express; `AutoModel.from_pretrained(DIR, trust_remote_code=True)` loads it.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax import config as configs
from mmjax.interop.formats import Files, Format, Spec
from mmjax.interop.huggingface import images
from mmjax.interop.huggingface.files import CONFIG, written_files
from mmjax.interop.layouts import CONVOLUTION, LINEAR, PATCHES, SAME, Layout, table
from mmjax.interop.mapping import LAYER, Row, Table
from mmjax.interop.shapes import parameter_shapes
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.resnet import ResNetConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig

IMAGE_CONFIGS: dict[str, type] = {"vit": ViTConfig, "resnet": ResNetConfig}
"""Our configs of image towers by the name of their kind."""
CODE = ("configuration_mmjax.py", "modeling_mmjax.py")
"""What a folder brings along."""
AUTO_MAP = {
    "AutoConfig": "configuration_mmjax.MMJaxConfig",
    "AutoModel": "modeling_mmjax.MMJaxDualEncoder",
}

NAMES = (
    (re.compile(r"log_scale"), "logit_scale"),
    (re.compile(r"(.*)/(kernel|scale|table)"), r"\1/weight"),
    (re.compile(r"(.*)/running_variance"), r"\1/running_var"),
    (re.compile(r"(.*)/blocks/(.*)"), rf"\1/blocks/{LAYER}/\2"),
)
"""Where a weight of the module is not called as our parameter is: a path that matches, and what it becomes."""

LAYOUTS = (
    (re.compile(r"image/stem/kernel|.*/stages/.*/kernel"), CONVOLUTION),
    (re.compile(r".*/kernel"), LINEAR),
    (re.compile(r".*"), SAME),
)
"""The layout of a parameter by its path; the first pattern that matches decides."""


@dataclass(frozen=True)
class RemoteCode(Format):
    """A format whose folders bring the code that reads them."""

    def copy_code(self, folder: Path) -> None:
        for name in CODE:
            shutil.copyfile(Path(__file__).parent / name, folder / name)


def rows(model: DualEncoderConfig) -> Table:
    return tuple(Row(path, _name(path), _layout(path, model)) for path in parameter_shapes(model, "both"))


def _name(path: str) -> str:
    for pattern, name in NAMES:
        if pattern.fullmatch(path):
            path = pattern.sub(name, path)
    return path.replace("/", ".")


def _layout(path: str, model: DualEncoderConfig) -> Layout:
    if path == "text/tokens/table":
        return table(model.text.vocab_size)
    if path == "image/stem/projection/kernel" and getattr(model.image, "stem", None) == "patch":
        return PATCHES
    return next(layout for pattern, layout in LAYOUTS if pattern.fullmatch(path))


def read(files: Files) -> Spec:
    config = files[CONFIG]
    preprocess, normalisation = images.read(files)
    image_values = dict(config["image_config"])
    image: Any = configs.from_dict(IMAGE_CONFIGS[image_values.pop("kind")], {**image_values, **normalisation})
    model = DualEncoderConfig(
        image=image,
        text=configs.from_dict(TextConfig, config["text_config"]),
        embed_dim=config["embed_dim"],
        image_projection=config["image_projection"],
        text_projection=config["text_projection"],
        logit_bias=0.0 if config["has_logit_bias"] else None,
    )
    return Spec(model, preprocess)


def write(spec: Spec) -> Files:
    # Here, because it imports transformers, which takes seconds and is not asked for by other formats.
    from mmjax.interop.remote_code.configuration_mmjax import IMAGE_FIELDS, TEXT_FIELDS

    model = spec.model
    kind = next(kind for kind, cls in IMAGE_CONFIGS.items() if isinstance(model.image, cls))
    config = {
        "architectures": ["MMJaxDualEncoder"],
        "model_type": "mmjax_dual_encoder",
        "auto_map": AUTO_MAP,
        "image_config": {"kind": kind, **_fields(model.image, IMAGE_FIELDS[kind])},
        "text_config": _fields(model.text, TEXT_FIELDS),
        "embed_dim": model.embed_dim,
        "image_projection": model.image_projection,
        "text_projection": model.text_projection,
        "has_logit_bias": model.logit_bias is not None,
    }
    return written_files(config, spec)


def _fields(tower: Any, names: tuple[str, ...]) -> Mapping[str, Any]:
    values = configs.to_dict(tower)
    return {name: values[name] for name in names}


MMJAX = RemoteCode("MMJaxDualEncoder", "both", write, read, rows, images=(ViTConfig, ResNetConfig))
