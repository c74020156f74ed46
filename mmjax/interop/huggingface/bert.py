"""`BertModel`: BERT (Devlin et al., 2019) and the sentence encoders made of it, as a text tower."""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.formats import Files, Format, Spec
from mmjax.interop.huggingface.files import CONFIG, written_files
from mmjax.interop.huggingface.layers import POSITION_IDS, attention, linear, norm, size_fields, written_size
from mmjax.interop.layouts import SAME, table
from mmjax.interop.mapping import Ignored, Row, Table, placed
from mmjax.models.text import TextConfig

LAYER: Table = (
    *attention(
        "attention",
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ),
    *norm("attention_norm", "attention.output.LayerNorm"),
    *linear("mlp/up", "intermediate.dense"),
    *linear("mlp/down", "output.dense"),
    *norm("mlp_norm", "output.LayerNorm"),
)


def rows(text: TextConfig) -> Table:
    embeddings = (
        Row("tokens/table", "embeddings.word_embeddings.weight", table(text.vocab_size)),
        Row("positions", "embeddings.position_embeddings.weight", SAME),
        Row("token_types", "embeddings.token_type_embeddings.weight", SAME),
        *norm("embedding_norm", "embeddings.LayerNorm"),
    )
    pooler = linear("pooler", "pooler.dense") if text.pooler else ()
    return placed((*embeddings, *placed(LAYER, "blocks/", "encoder.layer.{l}."), *pooler), "text/", "")


def read(files: Files) -> Spec:
    config = files[CONFIG]
    text = TextConfig(
        **size_fields(config),
        vocab_size=config["vocab_size"],
        context_len=config["max_position_embeddings"],
        num_token_types=config["type_vocab_size"],
        use_mask=True,
        norm="post",
        embedding_norm=True,
        final_norm=False,
        pool=_pool(config),
        pooler=config.get("has_pooler", True),
    )
    return Spec(text, None)


def _pool(config: Mapping[str, Any]) -> Any:
    """The first token, which the pooler of the class always takes; without a pooler the mean may be meant."""
    return "mean" if config.get("pool") == "mean" and not config.get("has_pooler", True) else "first"


def write(spec: Spec) -> Files:
    text = spec.model
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        **written_size(text),
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_len,
        "type_vocab_size": text.num_token_types,
        "pool": text.pool,
        "has_pooler": text.pooler,
    }
    return written_files(config, spec)


BERT = Format(
    "BertModel",
    "text",
    write,
    read,
    rows,
    prefix="bert.",
    ignored=(POSITION_IDS, Ignored(r"cls\..*", "the heads of pretraining are no part of a tower")),
)
