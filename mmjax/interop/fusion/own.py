"""`MmjaxFusion`: any fusion model of ours, for the plain PyTorch module `mmjax.serving.models.fusion.Fusion`.

For models that no public class expresses. The names of its tensors are our paths, one entry a layer.
"""

import re
from collections.abc import Iterator, Mapping
from types import NoneType

import numpy as np

from mmjax import config as configs
from mmjax.interop.formats import Format
from mmjax.interop.fusion.files import Config, fusion_format
from mmjax.interop.layouts import CONVOLUTION, LINEAR, PATCHES, SAME, Layout, table
from mmjax.interop.mapping import LAYER, Row, Table
from mmjax.interop.shapes import parameter_shapes
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.patches import GridInputConfig, PatchInputConfig
from mmjax.models.fusion.regions import RegionInputConfig

MODEL_TYPE = "mmjax_fusion"
MODEL = "model"
"""The field of `config.json` that holds our config."""

NAMES = (
    (re.compile(r"(towers|fusion)/groups/(\d+)/(.*)"), rf"\1/groups/\2/{LAYER}/\3"),
    (re.compile(r"(.*)/(kernel|scale|table)"), r"\1/weight"),
    (re.compile(r"(.*)/running_variance"), r"\1/running_var"),
)
"""Where a weight of the module is not called as our parameter is: a path that matches, and what it becomes."""

TABLES = ("text/tokens/table", "token_head/bias")
"""Parameters with a row for each word, and padding behind them."""

LAYOUTS = (
    (re.compile(r"image/tower/.*/kernel"), CONVOLUTION),
    (re.compile(r"image/stem/projection/kernel"), PATCHES),
    (re.compile(r".*/kernel"), LINEAR),
    (re.compile(r".*"), SAME),
)
"""The layout of any other parameter by its path; the first pattern that matches decides."""


def rows(model: FusionConfig) -> Table:
    return tuple(Row(path, _name(path), _layout(path, model)) for path in parameter_shapes(model, "both"))


def _name(path: str) -> str:
    for pattern, name in NAMES:
        if pattern.fullmatch(path):
            path = pattern.sub(name, path)
    return path.replace("/", ".")


def _layout(path: str, model: FusionConfig) -> Layout:
    if path in TABLES:
        return table(model.text.vocab_size)
    return next(layout for pattern, layout in LAYOUTS if pattern.fullmatch(path))


def read(config: Config) -> FusionConfig:
    return configs.from_dict(FusionConfig, config[MODEL])


def write(model: FusionConfig) -> Config:
    return {MODEL: configs.to_dict(model)}


MMJAX_FUSION = fusion_format(
    "MmjaxFusion",
    MODEL_TYPE,
    write,
    read,
    rows,
    images=(RegionInputConfig, PatchInputConfig, GridInputConfig, NoneType),
)


def from_reference(
    format: Format, model: FusionConfig, tensors: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """The `tensors` of a model in another `format`, such as `VILBERT`, under the names of the PyTorch module.

    Classes of a pair stay in their order: the right one is 0 in the released weights of ViLBERT, and 1 in all others.

    Raises:
        UserError: a tensor is missing, left over, or of another shape than the config says.
    """
    yield from MMJAX_FUSION.tensors(model, dict(format.parameters(model, tensors)))
