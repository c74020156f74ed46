"""Multi-head attention with its heads split over the tensor axis."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from mmjax.nn import short_attention
from mmjax.nn.dropout import dropout
from mmjax.nn.head_products import read_by, scores_of
from mmjax.nn.linear import Linear, joined
from mmjax.nn.module import Module
from mmjax.nn.norm import LayerNorm
from mmjax.nn.parameter import Initializer
from mmjax.nn.short_attention import MASKED
from mmjax.parallel import rules
from mmjax.types import Array, Key

MANY_SCORES = 2**14
"""Of a head for one example, from which on a CPU computes attention in halves of the batch: of 68 x 68 nothing is
gained, of 177 x 177 much, see `_attend_in_halves`."""
ATTENDED = "attended"
"""The name under which rematerialisation finds what queries read."""


class Attention(Module):
    """softmax(q k^T / sqrt(h)) v for each head, then a projection back to the width (Vaswani et al., 2017, eq. 1).

    With `qk_norm`, queries and keys pass a layer norm over the head dimension first (Dehghani et al., 2023, sec. 2).
    Where keys and values come from another stream, that one is `source_width` wide; the heads together are
    `inner_width` wide. Both are `width` by default.
    """

    def __init__(
        self,
        key: Key,
        width: int,
        num_heads: int,
        *,
        source_width: int | None = None,
        inner_width: int | None = None,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        dropout_rate: float = 0.0,
        init: Initializer | None = None,
    ):
        keys = jax.random.split(key, 6)
        inner = inner_width or width
        head_dim = inner // num_heads
        self.num_heads, self.dropout_rate = num_heads, dropout_rate
        linear = functools.partial(Linear, heads=num_heads, init=init)
        self.query = linear(keys[0], "dn", (width, inner))
        self.key = linear(keys[1], "dn", (source_width or width, inner))
        self.value = linear(keys[2], "dn", (source_width or width, inner))
        self.out = linear(keys[3], "nd", (inner, width))
        self.query_norm = LayerNorm(keys[4], head_dim, dims="h", eps=norm_eps) if qk_norm else None
        self.key_norm = LayerNorm(keys[5], head_dim, dims="h", eps=norm_eps) if qk_norm else None

    def __call__(
        self, x: Array, source: Array | None = None, mask: Array | None = None, key: Key | None = None
    ) -> Array:
        """Queries from x (b, t, d), keys and values from source (b, s, d), x itself by default -> (b, t, d).

        `mask` is bool and broadcasts to (b, n, t, s): True means that the query sees the key.
        """
        source = x if source is None else source
        if self._fits_kernel(x, source, mask, key):
            return self.out(self._attend_in_kernel(x, source, mask))
        return self.out(_side_by_side(self._attend_in_products(x, source, mask, key)))

    def _attend_in_products(self, x: Array, source: Array, mask: Array | None, key: Key | None) -> Array:
        """What each query reads (b, t, n, h)."""
        projected = self.query(x), self.key(source), self.value(source)
        queries, keys, values = (_apart(side, self.num_heads) for side in projected)
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        drops = key is not None and self.dropout_rate > 0
        if not drops and _gains_by_halves(queries, keys):
            return _attend_in_halves(queries, keys, values, mask)
        drop = functools.partial(dropout, rate=self.dropout_rate, key=key, dims="bnts")
        return _attend(queries, keys, values, mask, drop)

    def _fits_kernel(self, x: Array, source: Array, mask: Array | None, key: Key | None) -> bool:
        """Whether one kernel does it: see `short_attention`."""
        drops = key is not None and self.dropout_rate > 0
        if drops or self.query_norm is not None:
            return False
        return short_attention.fits(x, source, mask, self.num_heads, self._head_dim)

    def _attend_in_kernel(self, x: Array, source: Array, mask: Array | None) -> Array:
        """What each query reads (b, t, n * h): one product for all that comes of one input, then the kernel."""
        by_input = [(x, [self.query]), (source, [self.key, self.value])]
        if source is x:
            by_input = [(x, [self.query, self.key, self.value])]
        with jax.named_scope("query_key_value"):
            pairs = [joined(linears, rows) for rows, linears in by_input]
        sides, biases = zip(*pairs, strict=True)
        return checkpoint_name(short_attention.attend(sides, biases, mask, self._head_dim), ATTENDED)

    @property
    def _head_dim(self) -> int:
        return self.query.kernel.shape[-1] // self.num_heads


def _apart(x: Array, num_heads: int) -> Array:
    """Heads side by side (b, t, n * h) -> each for itself (b, t, n, h)."""
    return x.reshape(*x.shape[:2], num_heads, -1, out_sharding=rules.spec("btnh"))


def _side_by_side(x: Array) -> Array:
    """Each head for itself (b, t, n, h) -> side by side (b, t, n * h)."""
    return x.reshape(*x.shape[:2], -1, out_sharding=rules.spec("btn"))


def _attend(
    queries: Array,
    keys: Array,
    values: Array,
    mask: Array | None,
    drop: Callable[[Array], Array] = lambda shares: shares,
) -> Array:
    """What each query reads (b, t, n, h)."""
    return read_by(drop(attention_shares(queries, keys, mask)), values)


def _attend_in_halves(queries: Array, keys: Array, values: Array, mask: Array | None) -> Array:
    """`_attend` of each half of the batch: XLA on CPU runs the small products of one beside the softmax of the other.

    A step of ViLT takes 0.95 of the time that it takes whole, one of ALBEF 0.97, on two cores.
    """
    middle = len(queries) // 2
    rows = None if mask is None else jnp.broadcast_to(mask, (len(queries), *mask.shape[1:]))
    halves = [
        _attend(queries[half], keys[half], values[half], None if rows is None else rows[half])
        for half in (slice(middle), slice(middle, None))
    ]
    return jnp.concatenate(halves)


def _gains_by_halves(queries: Array, keys: Array) -> bool:
    num_rows, num_queries, num_keys = *queries.shape[:2], keys.shape[1]
    return num_rows > 1 and num_queries * num_keys >= MANY_SCORES and rules.runs_on_one_cpu()


def attention_shares(queries: Array, keys: Array, mask: Array | None = None) -> Array:
    """softmax over s of q (b, t, n, h) . k (b, s, n, h) / sqrt(h) -> (b, n, t, s); the softmax is float32."""
    # Scaled in float32: 1 / sqrt(72), the factor of So400m, is off by 0.1% in bfloat16.
    scores = scores_of(queries, keys).astype(jnp.float32) / math.sqrt(queries.shape[-1])
    if mask is not None:
        scores = jnp.where(mask, scores, MASKED)
    return _softmax(scores, queries.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softmax(scores: Array, dtype: DTypeLike) -> Array:
    """Over the last axis, in float32; for the gradient it keeps what it gives, in `dtype`, and nothing else."""
    return jax.nn.softmax(scores, axis=-1).astype(dtype)


def _softmax_forward(scores: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    shares = _softmax(scores, dtype)
    return shares, shares


def _softmax_backward(dtype: DTypeLike, kept: Array, cotangent: Array) -> tuple[Array]:
    shares = kept.astype(jnp.float32)
    weighted = shares * cotangent.astype(jnp.float32)
    return (weighted - shares * jnp.sum(weighted, axis=-1, keepdims=True),)


_softmax.defvjp(_softmax_forward, _softmax_backward)


def causal_mask(length: int) -> Array:
    """Bool (1, 1, t, s): a position sees itself and what comes before it."""
    return jnp.tril(jnp.ones((1, 1, length, length), bool))


def source_mask(mask: Array) -> Array:
    """`mask` (b, s), True for the tokens that may be seen, as (b, 1, 1, s)."""
    return mask[:, None, None, :]
