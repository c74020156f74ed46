"""What the text stream begins with: BERT's sum of token, position and token type."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mmjax.errors import UserError
from mmjax.nn.dropout import dropout
from mmjax.nn.embedding import TokenEmbedding
from mmjax.nn.module import Module
from mmjax.nn.norm import LayerNorm
from mmjax.nn.parameter import BERT_INIT, parameter, weight
from mmjax.parallel import rules
from mmjax.types import Array, Key


@dataclass(frozen=True)
class TextInputConfig:
    """Sizes of the tables, and what follows their sum.

    context_len: rows of positions, which count from the first token.
    num_token_types: segments; a text that says nothing of them is of type 0.
    """

    vocab_size: int = 30_522
    context_len: int = 512
    width: int = 768
    num_token_types: int = 2
    norm_eps: float = 1e-12
    dropout_rate: float = 0.1


class TextInput(Module):
    """norm(token + position + type), of width d (Devlin et al., 2019, figure 2)."""

    def __init__(self, config: TextInputConfig, key: Key):
        keys = jax.random.split(key, 4)
        self.config = config
        self.tokens = TokenEmbedding(keys[0], config.vocab_size, config.width, BERT_INIT)
        self.positions = parameter(keys[1], "td", (config.context_len, config.width), BERT_INIT)
        self.token_types = parameter(keys[2], "gd", (config.num_token_types, config.width), BERT_INIT)
        self.norm = LayerNorm(keys[3], config.width, eps=config.norm_eps)

    def __call__(self, text_ids: Array, token_types: Array | None, dtype: DTypeLike, key: Key | None = None) -> Array:
        """text_ids int32 (b, t), token_types int32 (b, t) or None for 0 everywhere -> (b, t, d).

        Raises:
            UserError: the texts are longer than `context_len`.
        """
        length = text_ids.shape[1]
        if length > self.config.context_len:
            raise UserError(
                f"texts of {length} tokens do not fit context_len = {self.config.context_len}: raise it or cut them"
            )
        x = self.tokens(text_ids, dtype) + weight(self.positions, dtype)[:length] + self._types(token_types, dtype)
        return dropout(self.norm(x), self.config.dropout_rate, key, "btd")

    def type_row(self, number: int, dtype: DTypeLike) -> Array:
        """One row (d,) of the token types, which UNITER also adds to what is no text."""
        row: Array = weight(self.token_types, dtype)[number]
        return row

    def _types(self, token_types: Array | None, dtype: DTypeLike) -> Array:
        if token_types is None:
            return self.type_row(0, dtype)
        table = weight(self.token_types, dtype)
        return jnp.asarray(table.at[token_types].get(out_sharding=rules.spec("btd")))
