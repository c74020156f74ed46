"""One Transformer layer and its parts."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
}


class LayerNorm(nn.LayerNorm):
    """Over the last axis, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        normed = functional.layer_norm(
            x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps
        )
        return normed.to(x.dtype)


def added_to_scores(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """`mask` (b, s), True for tokens that may be seen, as numbers (b, 1, 1, s) that are added to scores.

    Half of the lowest number leaves room for the score that it is added to, and drowns it: a row that sees no token
    looks at all of them alike. In float16 it does not drown it, and such a row looks as if all were seen.
    """
    lowest = torch.finfo(dtype).min / 2
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, lowest)[:, None, None, :]


class Attention(nn.Module):
    """softmax(q k^T / sqrt(h)) v for each head, then a projection; with `qk_norm`, q and k are normalised first.

    Keys and values come from a stream of `source_width`, and the heads together are `inner_width` wide.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        source_width: int,
        inner_width: int,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, inner_width)
        self.key = nn.Linear(source_width, inner_width)
        self.value = nn.Linear(source_width, inner_width)
        self.out = nn.Linear(inner_width, width)
        self.query_norm = LayerNorm(inner_width // num_heads, norm_eps) if qk_norm else None
        self.key_norm = LayerNorm(inner_width // num_heads, norm_eps) if qk_norm else None

    def forward(self, x: Tensor, source: Tensor, hidden: Tensor | None) -> Tensor:
        """Queries from x (b, t, d), keys and values from source (b, s, d'), `hidden` (b, 1, 1, s) added to scores."""
        query, key, value = self._heads(self.query(x)), self._heads(self.key(source)), self._heads(self.value(source))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=hidden)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class MLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, width: int, mlp_dim: int, activation: str):
        super().__init__()
        self.up, self.down = nn.Linear(width, mlp_dim), nn.Linear(mlp_dim, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    """pre: x + f(norm(x)); post: norm(x + f(x)); with f the attention, then the feed-forward, or one of them."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.is_pre = config.norm == "pre"
        self.attention_norm = LayerNorm(width, eps) if config.attention else None
        self.attention = _attention(config) if config.attention else None
        self.mlp_norm = LayerNorm(width, eps) if config.mlp else None
        self.mlp = MLP(width, config.mlp_dim, config.activation) if config.mlp else None

    def forward(self, x: Tensor, hidden: Tensor | None = None, source: Tensor | None = None) -> Tensor:
        """x (b, t, d) -> (b, t, d), looking at itself, or at `source` as it is, not normalised."""
        if self.attention is not None and self.attention_norm is not None:
            queries = self.attention_norm(x) if self.is_pre else x
            branch = self.attention(queries, queries if source is None else source, hidden)
            x = x + branch if self.is_pre else self.attention_norm(x + branch)
        if self.mlp is not None and self.mlp_norm is not None:
            x = x + self.mlp(self.mlp_norm(x)) if self.is_pre else self.mlp_norm(x + self.mlp(x))
        return x


def _attention(config: SimpleNamespace) -> Attention:
    return Attention(
        config.width,
        config.num_heads,
        source_width=config.source_width,
        inner_width=config.inner_width,
        qk_norm=config.qk_norm,
        norm_eps=config.norm_eps,
    )
