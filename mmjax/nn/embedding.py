"""Token embedding, its table padded in storage so that any tensor axis divides it."""

import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike

from mmjax.nn.module import Module
from mmjax.nn.parameter import Initializer, parameter, weight
from mmjax.parallel import rules
from mmjax.types import Array, Key

VOCAB_MULTIPLE = 128
"""Rows of a stored table come in multiples of this: the lane count of a TPU, and more than any tensor axis splits."""

TOKEN_STDDEV = 0.02
"""Of the initial token rows, as in CLIP (Radford et al., 2021, released code) and BERT."""


def padded_vocab_size(vocab_size: int) -> int:
    """`vocab_size` rounded up to the rows that are stored."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


class TokenEmbedding(Module):
    """Row `text_ids` of a (v, d) table. Rows from `vocab_size` on are zero padding; no id reaches them."""

    def __init__(self, key: Key, vocab_size: int, width: int, init: Initializer | None = None):
        shape = (padded_vocab_size(vocab_size), width)
        self.table = parameter(key, "vd", shape, init or initializers.normal(TOKEN_STDDEV), rows=vocab_size)

    def __call__(self, text_ids: Array, dtype: DTypeLike) -> Array:
        """text_ids int32 (b, t), each below the vocabulary size -> (b, t, d)."""
        # Read in float32, so that the gradient of a row sums over all tokens in float32: after some hundred terms a sum
        # in bfloat16 no longer grows, and padding occurs in every text.
        table = weight(self.table, dtype).astype(jnp.float32)
        return table.at[text_ids].get(out_sharding=rules.spec("btd")).astype(dtype)
