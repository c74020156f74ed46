"""`BertForPreTraining` (Devlin et al., 2019): the text stream alone, with both heads of its pretraining."""

from collections import Counter
from collections.abc import Iterable
from types import NoneType

from mmjax.interop.fusion.fields import read_size, read_vocabulary, written_size, written_vocabulary
from mmjax.interop.fusion.files import Config, fusion_format
from mmjax.interop.fusion.trunk import Part, layers_of, text_input_rows, token_head_rows, trunk_rows
from mmjax.interop.huggingface.bert import LAYER
from mmjax.interop.huggingface.layers import POSITION_IDS, linear
from mmjax.interop.mapping import Copy, Table
from mmjax.models.fusion import published
from mmjax.models.fusion.model import FusionConfig
from mmjax.nn.bimodal import Layer

TIED = (
    Copy("cls.predictions.decoder.weight", of="bert.embeddings.word_embeddings.weight"),
    Copy("cls.predictions.decoder.bias", of="cls.predictions.bias"),
)


def rows(model: FusionConfig) -> Table:
    return (
        *text_input_rows(model.text, "bert.embeddings."),
        *trunk_rows("towers", model.towers.groups, _parts, Counter()),
        *linear("pooler/text/dense", "bert.pooler.dense"),
        *token_head_rows(model.text),
        *linear("pair_head", "cls.seq_relationship"),
    )


def _parts(layer: Layer) -> Iterable[Part]:
    yield Part("text", "bert.encoder.layer.{l}.", LAYER, "layer")


def read(config: Config) -> FusionConfig:
    return published.bert(read_size(config), read_vocabulary(config))


def write(model: FusionConfig) -> Config:
    depth = sum(layer.text == "text" for layer in layers_of(model.towers))
    return {**written_size(model.towers.text, depth), **written_vocabulary(model.text)}


BERT_FOR_PRETRAINING = fusion_format(
    "BertForPreTraining", "bert", write, read, rows, images=(NoneType,), ignored=(POSITION_IDS,), copies=TIED
)
