"""Fields that the configs of BERT and of the models made of it name alike."""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.formats import choice, inverted
from mmjax.interop.huggingface.layers import ACTIVATIONS
from mmjax.models.fusion.heads import HeadsConfig
from mmjax.models.fusion.published import Size, Vocabulary
from mmjax.models.fusion.text_input import TextInputConfig
from mmjax.nn.block import BlockConfig

NORM_EPS = 1e-12
"""Where a reference writes it into its code."""


def read_size(config: Mapping[str, Any], prefix: str = "", depth: str = "num_hidden_layers") -> Size:
    """The size of a stream; `prefix` stands before each of its fields."""
    return Size(
        width=config[f"{prefix}hidden_size"],
        depth=config[f"{prefix}{depth}"],
        num_heads=config[f"{prefix}num_attention_heads"],
        mlp_dim=config[f"{prefix}intermediate_size"],
        activation=choice(f"{prefix}hidden_act", config[f"{prefix}hidden_act"], ACTIVATIONS),
        norm_eps=config.get("layer_norm_eps", NORM_EPS),
        dropout_rate=config[f"{prefix}hidden_dropout_prob"],
        attention_dropout_rate=config[f"{prefix}attention_probs_dropout_prob"],
    )


def written_size(
    block: BlockConfig, depth: int, prefix: str = "", depth_name: str = "num_hidden_layers", *, eps: bool = True
) -> dict[str, Any]:
    """The inverse of `read_size`; `eps` where the class reads an epsilon."""
    fields = {
        f"{prefix}hidden_size": block.width,
        f"{prefix}{depth_name}": depth,
        f"{prefix}num_attention_heads": block.num_heads,
        f"{prefix}intermediate_size": block.mlp_dim,
        f"{prefix}hidden_act": inverted(ACTIVATIONS)[block.activation],
        f"{prefix}hidden_dropout_prob": block.dropout_rate,
        f"{prefix}attention_probs_dropout_prob": block.attention_dropout_rate,
    }
    return fields | ({"layer_norm_eps": block.norm_eps} if eps else {})


def read_vocabulary(config: Mapping[str, Any]) -> Vocabulary:
    """The rows of the text's tables."""
    return Vocabulary(config["vocab_size"], config["max_position_embeddings"], config["type_vocab_size"])


def written_vocabulary(text: TextInputConfig) -> dict[str, Any]:
    """The inverse of `read_vocabulary`."""
    return {
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_len,
        "type_vocab_size": text.num_token_types,
    }


def output_sizes(heads: HeadsConfig) -> dict[str, int]:
    """What the heads of regions predict, by name; of a name that two of them have, the first."""
    return dict(reversed([output for head in heads.regions for output in head.outputs]))
