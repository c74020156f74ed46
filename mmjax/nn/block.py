"""One Transformer layer: attention and feed-forward, each on a residual branch, or one of them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
from jax.ad_checkpoint import checkpoint_name

from mmjax.nn.attention import Attention
from mmjax.nn.dropout import drop_path, dropout, split
from mmjax.nn.linear import is_aligned, rows_of
from mmjax.nn.mlp import MLP, Activation
from mmjax.nn.module import Module
from mmjax.nn.norm import LayerNorm
from mmjax.nn.parameter import BERT_INIT
from mmjax.parallel import rules
from mmjax.types import Array, Key

MIDDLE = "middle"
"""The name under which rematerialisation finds what stands between the two branches of a layer."""


@dataclass(frozen=True)
class BlockConfig:
    """Sizes and choices of one layer.

    norm: "pre" normalises the input of each branch, as ViT, CLIP and SigLIP do; "post" the sum after it, as BERT does.
    source_width, inner_width: of the attention, see `Attention`; `width` by default.
    attention, mlp: whether it has that branch.
    init: of matrices: "glorot" as in `Linear`, or "bert", a truncated normal of deviation 0.02.
    """

    width: int
    num_heads: int
    mlp_dim: int
    activation: Activation = "gelu"
    norm: Literal["pre", "post"] = "pre"
    norm_eps: float = 1e-6
    qk_norm: bool = False
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    source_width: int | None = None
    inner_width: int | None = None
    attention: bool = True
    mlp: bool = True
    init: Literal["glorot", "bert"] = "glorot"


class Block(Module):
    """pre: x + f(norm(x)); post: norm(x + f(x)); with f the attention, then the feed-forward."""

    def __init__(self, config: BlockConfig, key: Key):
        keys = jax.random.split(key, 4)
        init = BERT_INIT if config.init == "bert" else None
        self.config = config
        if config.attention:
            self.attention_norm = LayerNorm(keys[0], config.width, eps=config.norm_eps)
            self.attention = Attention(
                keys[1],
                config.width,
                config.num_heads,
                source_width=config.source_width,
                inner_width=config.inner_width,
                qk_norm=config.qk_norm,
                norm_eps=config.norm_eps,
                dropout_rate=config.attention_dropout_rate,
                init=init,
            )
        if config.mlp:
            self.mlp_norm = LayerNorm(keys[2], config.width, eps=config.norm_eps)
            self.mlp = MLP(keys[3], config.width, config.mlp_dim, config.activation, init)

    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        drop_path_rate: Array | None = None,
        key: Key | None = None,
        source: Array | None = None,
    ) -> Array:
        """x (b, t, d) -> (b, t, d); `mask` and `source` as in `Attention`, the source as it is, not normalised."""
        if is_aligned(x) and not self._drops(drop_path_rate, key):
            return self._on_rows(x, mask, source)
        shares_key, attention_key, mlp_key = split(key, 3)
        if self.config.attention:
            attend = functools.partial(self.attention, source=source, mask=mask, key=shares_key)
            x = checkpoint_name(self._residual(x, attend, self.attention_norm, drop_path_rate, attention_key), MIDDLE)
        if self.config.mlp:
            x = self._residual(x, self.mlp, self.mlp_norm, drop_path_rate, mlp_key)
        return x

    def _drops(self, drop_path_rate: Array | None, key: Key | None) -> bool:
        """Whether anything is dropped."""
        rates = self.config.dropout_rate, self.config.attention_dropout_rate
        return key is not None and (drop_path_rate is not None or any(rates))

    def _on_rows(self, x: Array, mask: Array | None, source: Array | None) -> Array:
        """The layer on a TPU, without dropout: positions are rows of one matrix but for attention itself.

        What is done to each number is then one fusion with the products before it, and the products are of matrices.
        """
        shape = x.shape

        def whole(rows: Array) -> Array:
            return rows.reshape(shape, out_sharding=rules.spec("btd"))

        def attend(rows: Array) -> Array:
            return rows_of(self.attention(whole(rows), source=source, mask=mask), "d")

        rows = rows_of(x, "d")
        if self.config.attention:
            rows = checkpoint_name(self._residual(rows, attend, self.attention_norm, None, None), MIDDLE)
        if self.config.mlp:
            rows = self._residual(rows, self.mlp, self.mlp_norm, None, None)
        return whole(rows)

    def _residual(
        self,
        x: Array,
        layer: Callable[[Array], Array],
        norm: LayerNorm,
        drop_path_rate: Array | None,
        key: Key | None,
    ) -> Array:
        dropout_key, path_key = split(key, 2)
        branch = layer(norm(x) if self.config.norm == "pre" else x)
        branch = dropout(branch, self.config.dropout_rate, dropout_key, "btd")
        x = x + drop_path(branch, drop_path_rate, path_key)
        return x if self.config.norm == "pre" else norm(x)
