"""`LxmertForPreTraining` (Tan and Bansal, 2019)."""

from collections import Counter
from collections.abc import Iterable

from mmjax.interop.fusion.fields import output_sizes, read_size, read_vocabulary, written_size, written_vocabulary
from mmjax.interop.fusion.files import Config, fusion_format
from mmjax.interop.fusion.trunk import Part, layers_of, text_input_rows, token_head_rows, transform_rows, trunk_rows
from mmjax.interop.huggingface.bert import LAYER
from mmjax.interop.huggingface.layers import POSITION_IDS, attention, linear, norm
from mmjax.interop.mapping import Copy, Table
from mmjax.models.fusion import published
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.regions import RegionInputConfig
from mmjax.nn.bimodal import Layer

TIED = (Copy("cls.predictions.decoder.weight", of="lxmert.embeddings.word_embeddings.weight"),)
IMAGE = "lxmert.encoder.visn_fc"
CROSS = "lxmert.encoder.x_layers.{l}."


def rows(model: FusionConfig) -> Table:
    return (
        *text_input_rows(model.text, "lxmert.embeddings."),
        *linear("image/features", f"{IMAGE}.visn_fc"),
        *norm("image/features_norm", f"{IMAGE}.visn_layer_norm"),
        *linear("image/location", f"{IMAGE}.box_fc"),
        *norm("image/location_norm", f"{IMAGE}.box_layer_norm"),
        *trunk_rows("towers", model.towers.groups, _tower_parts, Counter()),
        *trunk_rows("fusion", model.fusion.groups, _cross_parts, Counter()),
        *linear("pooler/text/dense", "lxmert.pooler.dense"),
        *token_head_rows(model.text),
        *linear("pair_head", "cls.seq_relationship"),
        *transform_rows("region_heads/0/transform", "obj_predict_head.transform"),
        *linear("region_heads/0/objects", "obj_predict_head.decoder_dict.obj"),
        *linear("region_heads/0/attributes", "obj_predict_head.decoder_dict.attr"),
        *linear("region_heads/0/features", "obj_predict_head.decoder_dict.feat"),
        *linear("answer_head/dense", "answer_head.logit_fc.0"),
        *norm("answer_head/norm", "answer_head.logit_fc.2"),
        *linear("answer_head/out", "answer_head.logit_fc.3"),
    )


def _tower_parts(layer: Layer) -> Iterable[Part]:
    if layer.text == "text":
        yield Part("text", "lxmert.encoder.layer.{l}.", LAYER, "language")
    if layer.image == "image":
        yield Part("image", "lxmert.encoder.r_layers.{l}.", LAYER, "vision")


def _cross_parts(layer: Layer) -> Iterable[Part]:
    """A cross-modality layer is two of ours: the cross-attention, then what each stream does by itself."""
    if layer.shared:
        yield Part("shared", CROSS, _attention("visual_attention", "att"), "cross")
        return
    for ours, theirs in (("text", "lang"), ("image", "visn")):
        rows = (
            *_attention(f"{theirs}_self_att", "self"),
            *linear("mlp/up", f"{theirs}_inter.dense"),
            *linear("mlp/down", f"{theirs}_output.dense"),
            *norm("mlp_norm", f"{theirs}_output.LayerNorm"),
        )
        yield Part(ours, CROSS, rows, ours)


def _attention(theirs: str, inside: str) -> Table:
    query, key, value = (f"{theirs}.{inside}.{name}" for name in ("query", "key", "value"))
    return (
        *attention("attention", query, key, value, f"{theirs}.output.dense"),
        *norm("attention_norm", f"{theirs}.output.LayerNorm"),
    )


def read(config: Config) -> FusionConfig:
    return published.lxmert(
        read_size(config, depth="l_layers"),
        read_vocabulary(config),
        vision_depth=config["r_layers"],
        cross_depth=config["x_layers"],
        feature_dim=config["visual_feat_dim"],
        num_objects=config["num_object_labels"],
        num_attributes=config["num_attr_labels"],
        num_answers=config["num_qa_labels"],
    )


def write(model: FusionConfig) -> Config:
    assert isinstance(model.image, RegionInputConfig)
    towers, sizes = layers_of(model.towers), output_sizes(model.heads)
    language_depth = sum(layer.text == "text" for layer in towers)
    return {
        **written_size(model.towers.text, language_depth, depth_name="l_layers", eps=False),
        **written_vocabulary(model.text),
        "r_layers": sum(layer.image == "image" for layer in towers),
        "x_layers": sum(layer.shared for layer in layers_of(model.fusion)),
        "visual_feat_dim": model.image.feature_dim,
        "num_object_labels": sizes.get("objects", 0),
        "num_attr_labels": sizes.get("attributes", 0),
        "num_qa_labels": model.heads.num_answers,
    }


LXMERT = fusion_format(
    "LxmertForPreTraining",
    "lxmert",
    write,
    read,
    rows,
    images=(RegionInputConfig,),
    ignored=(POSITION_IDS,),
    copies=TIED,
)
