"""`UniterForPretraining` of ChenRocks/UNITER (Chen et al., 2020)."""

from collections import Counter

from mmjax.interop.fusion.fields import output_sizes, read_size, read_vocabulary, written_size, written_vocabulary
from mmjax.interop.fusion.files import Config, fusion_format
from mmjax.interop.fusion.trunk import joint_depth, joint_parts, text_input_rows, token_head_rows, trunk_rows
from mmjax.interop.huggingface.bert import LAYER
from mmjax.interop.huggingface.layers import linear, norm
from mmjax.interop.layouts import SAME, second_of_two
from mmjax.interop.mapping import Copy, Row, Table
from mmjax.models.fusion import published
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.regions import RegionInputConfig

IMAGE = "uniter.img_embeddings"
TIED = (
    Copy("cls.predictions.decoder.weight", of="uniter.embeddings.word_embeddings.weight", written=True),
    Copy("feat_regress.weight", of=f"{IMAGE}.img_linear.weight", written=True),
)


def rows(model: FusionConfig) -> Table:
    return (
        *text_input_rows(model.text, "uniter.embeddings."),
        *linear("image/features", f"{IMAGE}.img_linear"),
        *norm("image/features_norm", f"{IMAGE}.img_layer_norm"),
        *linear("image/location", f"{IMAGE}.pos_linear"),
        *norm("image/location_norm", f"{IMAGE}.pos_layer_norm"),
        *norm("image/norm", f"{IMAGE}.LayerNorm"),
        Row("image/mask_token", f"{IMAGE}.mask_embedding.weight", second_of_two()),
        *trunk_rows("fusion", model.fusion.groups, joint_parts("uniter.encoder.layer.{l}.", LAYER), Counter()),
        *linear("pooler/text/dense", "uniter.pooler.dense"),
        *token_head_rows(model.text),
        *linear("pair_head", "itm_output"),
        *linear("region_heads/0/transform/dense", "feat_regress.net.0"),
        *norm("region_heads/0/transform/norm", "feat_regress.net.2"),
        Row("region_heads/0/bias", "feat_regress.bias", SAME),
        *linear("region_heads/1/transform/dense", "region_classifier.net.0"),
        *norm("region_heads/1/transform/norm", "region_classifier.net.2"),
        *linear("region_heads/1/classes", "region_classifier.net.3"),
    )


def read(config: Config) -> FusionConfig:
    dims = {"feature_dim": config["img_dim"], "num_classes": config["img_label_dim"]}
    return published.uniter(read_size(config), read_vocabulary(config), **dims)


def write(model: FusionConfig) -> Config:
    assert isinstance(model.image, RegionInputConfig)
    return {
        **written_size(model.fusion.text, joint_depth(model), eps=False),
        **written_vocabulary(model.text),
        "img_dim": model.image.feature_dim,
        "img_label_dim": output_sizes(model.heads).get("classes", 0),
    }


UNITER = fusion_format("UniterForPretraining", "uniter", write, read, rows, images=(RegionInputConfig,), copies=TIED)
