"""Text Transformer: causal with end-of-text pooling as in CLIP, or bidirectional as in SigLIP and BERT."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn import initializers

from mmjax.errors import UserError
from mmjax.nn import stack
from mmjax.nn.attention import causal_mask, source_mask
from mmjax.nn.block import BlockConfig
from mmjax.nn.dropout import dropout, split
from mmjax.nn.embedding import TOKEN_STDDEV, TokenEmbedding
from mmjax.nn.linear import Linear
from mmjax.nn.mlp import Activation
from mmjax.nn.module import Module
from mmjax.nn.norm import LayerNorm
from mmjax.nn.parameter import parameter, weight
from mmjax.nn.pooling import MapPool, masked_mean, take_position
from mmjax.nn.stack import Remat, StackConfig
from mmjax.types import Array, Key

POSITION_STDDEV = 0.01
"""Of the initial position rows, as in CLIP (Radford et al., 2021, released code)."""


@dataclass(frozen=True)
class TextConfig:
    """A text tower.

    context_len: the most tokens of a text; shorter inputs use the first positions.
    causal: a token sees only what stands before it.
    use_mask: padding is hidden from attention. CLIP needs no mask, as a causal token before the padding cannot see it;
        SigLIP was trained without one and attends to its padding.
    pool: "eot" takes the first `eos_id`; "last" and "first" the position of that name, padding or not; "mean" averages
        over the text mask; "map" attends.
    eos_id: None takes the largest id instead, which is the end of text in CLIP's vocabulary; Hugging Face does so
        where a config has the legacy `eos_token_id` 2.
    pooler: tanh(x W + b) of what `pool` gives, as BERT has behind its first token (Devlin et al., 2019, released code).
    num_token_types: rows of a table of which row 0 is added to every token: BERT's segments, of which a text is one.
    norm: where a block normalises, see `BlockConfig`.
    embedding_norm: a layer norm before the first block, as in BERT.
    final_norm: a layer norm after the last block.
    drop_path_rate, remat, unroll: see `StackConfig`.
    """

    vocab_size: int = 32_000
    context_len: int = 64
    width: int = 768
    depth: int = 12
    mlp_dim: int = 3072
    num_heads: int = 12
    causal: bool = False
    use_mask: bool = False
    pool: Literal["eot", "last", "first", "mean", "map"] = "last"
    eos_id: int | None = None
    pooler: bool = False
    num_token_types: int = 0
    norm: Literal["pre", "post"] = "pre"
    norm_eps: float = 1e-6
    embedding_norm: bool = False
    final_norm: bool = True
    activation: Activation = "gelu_tanh"
    qk_norm: bool = False
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise UserError(f"num_heads {self.num_heads} does not divide width {self.width}: change either")

    def build(self, key: Key) -> "TextTransformer":
        """The tower, with initial values drawn from `key`."""
        return TextTransformer(self, key)

    @property
    def block(self) -> BlockConfig:
        return BlockConfig(
            width=self.width,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm=self.norm,
            norm_eps=self.norm_eps,
            qk_norm=self.qk_norm,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
        )

    @property
    def stack(self) -> StackConfig:
        return StackConfig(self.depth, self.drop_path_rate, self.remat, self.unroll)


class TextTransformer(Module):
    """pool(norm(blocks(tokens + positions))), and what the config adds to it."""

    def __init__(self, config: TextConfig, key: Key):
        keys = jax.random.split(key, 8)
        width, eps = config.width, config.norm_eps
        self.config = config
        self.tokens = TokenEmbedding(keys[0], config.vocab_size, width)
        self.positions = parameter(keys[1], "td", (config.context_len, width), initializers.normal(POSITION_STDDEV))
        if config.num_token_types:
            shape = (config.num_token_types, width)
            self.token_types = parameter(keys[6], "gd", shape, initializers.normal(TOKEN_STDDEV))
        self.embedding_norm = LayerNorm(keys[2], width, eps=eps) if config.embedding_norm else None
        self.blocks = stack.stacked(config.block, config.depth, keys[3])
        self.final_norm = LayerNorm(keys[4], width, eps=eps) if config.final_norm else None
        if config.pool == "map":
            self.pool = MapPool(
                keys[5], width, config.num_heads, config.mlp_dim, activation=config.activation, norm_eps=eps
            )
        self.pooler = Linear(keys[7], "de", (width, width)) if config.pooler else None

    def __call__(self, text_ids: Array, text_mask: Array, key: Key | None = None) -> tuple[Array, dict[str, Array]]:
        """The features (b, d) of texts: `text_ids` int32 (b, t) and `text_mask` bool (b, t), True for real tokens.

        `key` switches dropout on. Extras: `tokens` (b, t, d), normalised; `features`.

        Raises:
            UserError: the texts are longer than `context_len`.
        """
        dropout_key, stack_key = split(key, 2)
        x = dropout(self._embed(text_ids), self.config.dropout_rate, dropout_key, "btd")
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        x = stack.run(self.blocks, self.config.stack, x, self._attention_mask(text_mask), stack_key)
        features = self._pool(x, text_ids, text_mask)
        features = features if self.pooler is None else jnp.tanh(self.pooler(features))
        return features, {"tokens": self._normed(x), "features": features}

    def _embed(self, text_ids: Array) -> Array:
        length = text_ids.shape[1]
        if length > self.config.context_len:
            raise UserError(
                f"texts of {length} tokens do not fit context_len = {self.config.context_len}: raise it or cut them"
            )
        dtype = jnp.dtype(self.config.compute_dtype)
        x = self.tokens(text_ids, dtype) + weight(self.positions, dtype)[:length]
        return x + weight(self.token_types, dtype)[0] if self.config.num_token_types else x

    def _attention_mask(self, text_mask: Array) -> Array | None:
        causal = causal_mask(text_mask.shape[1]) if self.config.causal else None
        if not self.config.use_mask:
            return causal
        visible = source_mask(text_mask)
        return visible if causal is None else causal & visible

    def _pool(self, x: Array, text_ids: Array, text_mask: Array) -> Array:
        """Of x (b, t, d), normalised; where one position is read, that alone."""
        match self.config.pool:
            case "eot":
                return self._normed(take_position(x, end_of_text(text_ids, self.config.eos_id)))
            case "last":
                return self._normed(take_position(x, x.shape[1] - 1))
            case "first":
                return self._normed(take_position(x, 0))
            case "mean":
                return masked_mean(self._normed(x), text_mask)
            case "map":
                return self.pool(self._normed(x), text_mask if self.config.use_mask else None)

    def _normed(self, x: Array) -> Array:
        return x if self.final_norm is None else self.final_norm(x)


def end_of_text(text_ids: Array, eos_id: int | None) -> Array:
    """The position int (b,) of the first `eos_id` in `text_ids` (b, t), 0 where there is none; see `TextConfig`."""
    return jnp.argmax(text_ids if eos_id is None else text_ids == eos_id, axis=1)
