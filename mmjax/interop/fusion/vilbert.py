"""`BertForMultiModalPreTraining` of facebookresearch/vilbert-multi-task: ViLBERT (Lu et al., 2019)."""

from collections import Counter
from collections.abc import Iterable

from mmjax.interop.fusion.fields import output_sizes, read_size, read_vocabulary, written_size, written_vocabulary
from mmjax.interop.fusion.files import Config, fusion_format
from mmjax.interop.fusion.trunk import Part, layers_of, text_input_rows, token_head_rows, transform_rows, trunk_rows
from mmjax.interop.huggingface.bert import LAYER
from mmjax.interop.huggingface.layers import attention, linear, norm
from mmjax.interop.layouts import Layout, zeros
from mmjax.interop.mapping import Copy, Ignored, Row, Table
from mmjax.models.fusion import published, trunks
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.regions import RegionInputConfig
from mmjax.nn.bimodal import Layer

TIED = (Copy("cls.predictions.decoder.weight", of="bert.embeddings.word_embeddings.weight", written=True),)
UNUSED = Ignored(r".*\.biOutput\.q_dense[12]\.(weight|bias)", "nothing passes through it")


def rows(model: FusionConfig) -> Table:
    counts: Counter[str] = Counter()
    return (
        *text_input_rows(model.text, "bert.embeddings."),
        *linear("image/features", "bert.v_embeddings.image_embeddings"),
        *linear("image/location", "bert.v_embeddings.image_location_embeddings"),
        *norm("image/norm", "bert.v_embeddings.LayerNorm"),
        *trunk_rows("towers", model.towers.groups, _parts, counts),
        *trunk_rows("fusion", model.fusion.groups, _parts, counts),
        *linear("pooler/text/dense", "bert.t_pooler.dense"),
        *linear("pooler/image/dense", "bert.v_pooler.dense"),
        *token_head_rows(model.text),
        *linear("pair_head", "cls.bi_seq_relationship"),
        *transform_rows("region_heads/0/transform", "cls.imagePredictions.transform"),
        *linear("region_heads/0/classes", "cls.imagePredictions.decoder"),
    )


def _parts(layer: Layer) -> Iterable[Part]:
    if layer.text == "image":
        yield Part("text", "bert.encoder.c_layer.{l}.", _connection("t", own=2, other=1), "text connection")
        yield Part("image", "bert.encoder.c_layer.{l}.", _connection("v", own=1, other=2), "image connection")
    if layer.text == "text":
        yield Part("text", "bert.encoder.layer.{l}.", LAYER, "text")
    if layer.image == "image":
        yield Part("image", "bert.encoder.v_layer.{l}.", LAYER, "image")


def _connection(letter: str, own: int, other: int) -> Table:
    """1 is the image and 2 the text; what a stream reads crosses over to the output of its own number."""
    inside = "biattention."
    return (
        *attention(
            "attention",
            f"{inside}query{own}",
            f"{inside}key{other}",
            f"{inside}value{other}",
            f"biOutput.dense{own}",
        ),
        *norm("attention_norm", f"biOutput.LayerNorm{own}"),
        *linear("mlp/up", f"{letter}_intermediate.dense"),
        *linear("mlp/down", f"{letter}_output.dense"),
        *norm("mlp_norm", f"{letter}_output.LayerNorm"),
    )


def unused_rows(model: FusionConfig) -> Table:
    """Tensors that its class wants to load; zeros, as nothing passes through them."""
    inner = model.pooler.width if model.pooler is not None else 0
    shapes = {1: model.towers.image.width, 2: model.towers.text.width}
    connections = sum(layer.text == "image" for layer in layers_of(model.fusion))
    return tuple(
        Row((), f"bert.encoder.c_layer.{number}.biOutput.q_dense{own}.{name}", layout)
        for number in range(connections)
        for own, width in shapes.items()
        for name, layout in _zeros(width, inner).items()
    )


def _zeros(width: int, inner: int) -> dict[str, Layout]:
    return {"weight": zeros(width, inner), "bias": zeros(width)}


def read(config: Config) -> FusionConfig:
    return published.vilbert(
        read_size(config),
        read_size(config, "v_"),
        read_vocabulary(config),
        text_before=config["t_biattention_id"],
        image_before=config["v_biattention_id"],
        inner_width=config["bi_hidden_size"],
        inner_heads=config["bi_num_attention_heads"],
        feature_dim=config["v_feature_size"],
        num_classes=config["v_target_size"],
    )


def write(model: FusionConfig) -> Config:
    assert isinstance(model.image, RegionInputConfig)
    layers = layers_of(model.towers, model.fusion)
    connection = next((layer for layer in layers if layer.text == "image"), Layer())
    text_before, image_before = trunks.before_connections(layers)
    return {
        **written_size(model.towers.text, sum(layer.text == "text" for layer in layers), eps=False),
        **written_size(model.towers.image, sum(layer.image == "image" for layer in layers), "v_", eps=False),
        **written_vocabulary(model.text),
        "t_biattention_id": text_before,
        "v_biattention_id": image_before,
        "bi_hidden_size": connection.inner_width or model.fusion.text.width,
        "bi_num_attention_heads": connection.num_heads or model.fusion.text.num_heads,
        "v_feature_size": model.image.feature_dim,
        "v_target_size": output_sizes(model.heads).get("classes", 0),
    }


VILBERT = fusion_format(
    "BertForMultiModalPreTraining",
    "vilbert",
    write,
    read,
    rows,
    images=(RegionInputConfig,),
    ignored=(UNUSED,),
    copies=TIED,
    unused=unused_rows,
)
