"""`ViltModel` (Kim et al., 2021)."""

from collections import Counter

from mmjax.interop.fusion.fields import read_size, read_vocabulary, written_size, written_vocabulary
from mmjax.interop.fusion.files import Config, fusion_format
from mmjax.interop.fusion.trunk import joint_depth, joint_parts, text_input_rows, trunk_rows
from mmjax.interop.huggingface.layers import POSITION_IDS, linear, norm
from mmjax.interop.huggingface.vit import LAYER
from mmjax.interop.layouts import PATCHES, SAME, reshaped
from mmjax.interop.mapping import Ignored, Row, Table
from mmjax.models.fusion import published
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.patches import PatchInputConfig

TYPE_IDS = Ignored(r"(.*\.)?token_type_ids", "they are all 0; older versions saved them")


def rows(model: FusionConfig) -> Table:
    return (
        *text_input_rows(model.text, "embeddings.text_embeddings."),
        Row("image/stem/projection/kernel", "embeddings.patch_embeddings.projection.weight", PATCHES),
        Row("image/stem/projection/bias", "embeddings.patch_embeddings.projection.bias", SAME),
        Row("image/class_token", "embeddings.cls_token", reshaped(1, 1)),
        Row("image/positions", "embeddings.position_embeddings", reshaped(1)),
        Row("modality_types", "embeddings.token_type_embeddings.weight", SAME),
        *trunk_rows("fusion", model.fusion.groups, joint_parts("encoder.layer.{l}.", LAYER), Counter()),
        *norm("final_norm", "layernorm"),
        *linear("pooler/text/dense", "pooler.dense"),
    )


def read(config: Config) -> FusionConfig:
    sides = {"image_size": config["image_size"], "patch_size": config["patch_size"]}
    return published.vilt(read_size(config), read_vocabulary(config), **sides)


def write(model: FusionConfig) -> Config:
    assert isinstance(model.image, PatchInputConfig)
    return {
        **written_size(model.fusion.text, joint_depth(model)),
        **written_vocabulary(model.text),
        "image_size": model.image.image_size,
        "patch_size": model.image.patch_size,
    }


VILT = fusion_format(
    "ViltModel",
    "vilt",
    write,
    read,
    rows,
    images=(PatchInputConfig,),
    prefix="vilt.",
    ignored=(POSITION_IDS, TYPE_IDS, Ignored(r"(mlm_score|rank_output|classifier)\..*", "a head of a task")),
)
