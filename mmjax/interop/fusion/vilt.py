"""`ViltModel` (Kim et al., 2021)."""

from collections import Counter
from collections.abc import Iterable

from mmjax.interop.formats import Files, Format, Spec
from mmjax.interop.fusion.fields import read_size, read_vocabulary, written_size, written_vocabulary
from mmjax.interop.fusion.trunk import Part, text_input_rows, trunk_rows
from mmjax.interop.huggingface.files import CONFIG
from mmjax.interop.huggingface.layers import POSITION_IDS, linear, norm
from mmjax.interop.huggingface.vit import LAYER
from mmjax.interop.layouts import PATCHES, SAME, reshaped
from mmjax.interop.mapping import Ignored, Row, Table
from mmjax.models.fusion import published
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.patches import PatchInputConfig
from mmjax.nn.bimodal import Layer

TYPE_IDS = Ignored(r"(.*\.)?token_type_ids", "they are all 0; older versions saved them")


def rows(model: FusionConfig) -> Table:
    return (
        *text_input_rows(model.text, "embeddings.text_embeddings."),
        Row("image/stem/projection/kernel", "embeddings.patch_embeddings.projection.weight", PATCHES),
        Row("image/stem/projection/bias", "embeddings.patch_embeddings.projection.bias", SAME),
        Row("image/class_token", "embeddings.cls_token", reshaped(1, 1)),
        Row("image/positions", "embeddings.position_embeddings", reshaped(1)),
        Row("modality_types", "embeddings.token_type_embeddings.weight", SAME),
        *trunk_rows("fusion", model.fusion.groups, _parts, Counter()),
        *norm("final_norm", "layernorm"),
        *linear("pooler/text/dense", "pooler.dense"),
    )


def _parts(layer: Layer) -> Iterable[Part]:
    yield Part("shared", "encoder.layer.{l}.", LAYER, "layer")


def read(files: Files) -> Spec:
    config = files[CONFIG]
    sides = {"image_size": config["image_size"], "patch_size": config["patch_size"]}
    return Spec(published.vilt(read_size(config), read_vocabulary(config), **sides), None)


def write(spec: Spec) -> Files:
    model = spec.model
    assert isinstance(model.image, PatchInputConfig)
    config = {
        "architectures": ["ViltModel"],
        "model_type": "vilt",
        **written_size(model.fusion.text, model.fusion.groups[0].repeat),
        **written_vocabulary(model.text),
        "image_size": model.image.image_size,
        "patch_size": model.image.patch_size,
    }
    return {CONFIG: config}


VILT = Format(
    "ViltModel",
    "both",
    write,
    read,
    rows,
    images=(PatchInputConfig,),
    prefix="vilt.",
    ignored=(POSITION_IDS, TYPE_IDS, Ignored(r"(mlm_score|rank_output|classifier)\..*", "a head of a task")),
)
