"""`VisualBertForPreTraining` (Li et al., 2019)."""

from collections import Counter

from mmjax.interop.fusion.fields import read_size, read_vocabulary, written_size, written_vocabulary
from mmjax.interop.fusion.files import Config, fusion_format
from mmjax.interop.fusion.trunk import joint_depth, joint_parts, text_input_rows, token_head_rows, trunk_rows
from mmjax.interop.huggingface.bert import LAYER
from mmjax.interop.huggingface.layers import POSITION_IDS, linear
from mmjax.interop.layouts import SAME
from mmjax.interop.mapping import Copy, Row, Table
from mmjax.models.fusion import published
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.regions import RegionInputConfig

EMBEDDINGS = "visual_bert.embeddings."
TIED = (
    Copy("cls.predictions.decoder.weight", of=f"{EMBEDDINGS}word_embeddings.weight"),
    Copy("cls.predictions.decoder.bias", of="cls.predictions.bias"),
)


def rows(model: FusionConfig) -> Table:
    return (
        *text_input_rows(model.text, EMBEDDINGS),
        *linear("image/features", f"{EMBEDDINGS}visual_projection"),
        Row("image/token_types", f"{EMBEDDINGS}visual_token_type_embeddings.weight", SAME),
        Row("image/positions", f"{EMBEDDINGS}visual_position_embeddings.weight", SAME),
        *trunk_rows("fusion", model.fusion.groups, joint_parts("visual_bert.encoder.layer.{l}.", LAYER), Counter()),
        *linear("pooler/text/dense", "visual_bert.pooler.dense"),
        *token_head_rows(model.text),
        *linear("pair_head", "cls.seq_relationship"),
    )


def read(config: Config) -> FusionConfig:
    return published.visual_bert(read_size(config), read_vocabulary(config), feature_dim=config["visual_embedding_dim"])


def write(model: FusionConfig) -> Config:
    assert isinstance(model.image, RegionInputConfig)
    return {
        **written_size(model.fusion.text, joint_depth(model)),
        **written_vocabulary(model.text),
        "visual_embedding_dim": model.image.feature_dim,
    }


VISUAL_BERT = fusion_format(
    "VisualBertForPreTraining",
    "visual_bert",
    write,
    read,
    rows,
    images=(RegionInputConfig,),
    ignored=(POSITION_IDS,),
    copies=TIED,
)
