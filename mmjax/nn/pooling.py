"""One vector from the vectors of many positions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from mmjax.nn import short_attention
from mmjax.nn.attention import source_mask
from mmjax.nn.linear import Linear, rows_of
from mmjax.nn.mlp import MLP, Activation
from mmjax.nn.module import Module
from mmjax.nn.norm import LayerNorm
from mmjax.nn.parameter import parameter, weight
from mmjax.nn.short_attention import MASKED
from mmjax.parallel import rules
from mmjax.parallel.chips import SUBLANES
from mmjax.types import Array, Key

TILE_ROWS = 2 * SUBLANES
"""Of bfloat16: two rows share a sublane."""


class MapPool(Module):
    """Attention pooling: a learned probe looks at all positions, then y + mlp(norm(y)) (Lee et al., 2019, eq. 11;
    Zhai et al., 2022, Scaling ViT, sec. 3.2)."""

    def __init__(
        self, key: Key, width: int, num_heads: int, mlp_dim: int, *, activation: Activation, norm_eps: float = 1e-6
    ):
        keys = jax.random.split(key, 4)
        self.probe = parameter(keys[0], "od", (1, width), initializers.xavier_uniform())
        self.attention = ProbeAttention(keys[1], width, num_heads)
        self.norm = LayerNorm(keys[2], width, eps=norm_eps)
        self.mlp = MLP(keys[3], width, mlp_dim, activation)

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """x (b, t, d) -> (b, d); `mask` (b, t) is True for the positions that may be seen."""
        y = self.attention(weight(self.probe, x.dtype)[0], x, mask)
        return y + self.mlp(self.norm(y))


class ProbeAttention(Module):
    """Multi-head attention of one query, the same for all examples, to all positions.

    Neither keys nor values are made of the positions. With K_n and V_n the matrices of a head and q_n its query, the
    score q_n . (K_n^T x) is (K_n q_n) . x, and what is read, V_n^T x summed with the shares, is V_n^T of the sum of x.
    That is a product with a vector a head, where keys and values are two with a matrix. The bias of the keys adds the
    same to the scores of all positions: no result depends on it, and its gradient is zero.
    """

    def __init__(self, key: Key, width: int, num_heads: int):
        keys = jax.random.split(key, 4)
        linear = functools.partial(Linear, heads=num_heads)
        self.num_heads = num_heads
        self.query, self.key, self.value = (linear(keys[place], "dn", (width, width)) for place in range(3))
        self.out = linear(keys[3], "nd", (width, width))

    def __call__(self, query: Array, x: Array, mask: Array | None = None) -> Array:
        """query (d,), x (b, t, d) -> (b, d); `mask` (b, t) is True for the positions that may be seen."""
        seen = None if mask is None else source_mask(mask)
        return self.out(self._values(self._read(self._directions(query), x, seen)))

    def _values(self, read: Array) -> Array:
        """V_n^T of what head n has read -> (b, n * h); on TPU, read (b, n, d) may have more rows than heads."""
        kernel, bias = weight(self.value.kernel, read.dtype), self.value.bias_as(read.dtype)
        assert bias is not None
        if rules.runs_on_tpu():
            # The values of all heads of each row, of which each keeps its own: a product of two matrices as they lie,
            # where head by head both are turned around.
            rows = jnp.einsum("bi,io->bo", rows_of(read, "d"), kernel, out_sharding=rules.spec("bn"))
            rows = rows.reshape(*read.shape[:2], -1, out_sharding=rules.spec("bon"))
            return jnp.sum(jnp.where(self._own(read.shape[1]), rows, 0), axis=1) + bias
        by_head = jnp.reshape(kernel, (len(kernel), self.num_heads, -1), out_sharding=rules.spec("dnh"))
        values = jnp.einsum("bnd,dnh->bnh", read, by_head, out_sharding=rules.spec("bnh"))
        return values.reshape(len(values), -1, out_sharding=rules.spec("bn")) + bias

    def _own(self, num_rows: int) -> np.ndarray:
        """Bool (rows, n * h): which numbers, of heads side by side, are of the head of that row."""
        head_dim = self.query.kernel.shape[-1] // self.num_heads
        return np.repeat(np.eye(num_rows, self.num_heads, dtype=bool), head_dim, axis=1)

    def _directions(self, query: Array) -> Array:
        """K_n q_n / sqrt(h) of each head, float32 (n, d): what positions are multiplied with.

        For products of matrices, which a TPU has a unit for, row n holds the queries of all heads, then those of the
        others are zeros.
        """
        head_dim = len(query) // self.num_heads
        to_queries, to_keys = (weight(side.kernel, query.dtype) for side in (self.query, self.key))
        bias, own = self.query.bias_as(query.dtype), self._own(self.num_heads)
        assert bias is not None
        rows = jnp.broadcast_to(query, (self.num_heads, len(query)))
        queries = jnp.where(own, jnp.einsum("ri,io->ro", rows, to_queries, out_sharding=rules.spec("on")) + bias, 0)
        product = functools.partial(jnp.einsum, "ro,io->ri", preferred_element_type=jnp.float32)
        return product(queries, to_keys, out_sharding=rules.spec("od")) / math.sqrt(head_dim)

    def _read(self, directions: Array, x: Array, mask: Array | None) -> Array:
        """The sum of x with the shares of each head -> (b, n, d), with the kernel in whole tiles of rows."""
        if short_attention.fits(x, x, mask, 1, x.shape[-1], letter="d"):
            return _read_in_kernel(directions, x, mask)
        scores = jnp.einsum("btd,nd->bnt", x, directions.astype(x.dtype), out_sharding=rules.spec("bot"))
        scores = scores.astype(jnp.float32)
        scores = scores if mask is None else jnp.where(mask[:, 0], scores, MASKED)
        shares = jax.nn.softmax(scores).astype(x.dtype)
        return jnp.einsum("bnt,btd->bnd", shares, x, out_sharding=rules.spec("bod"))


def _read_in_kernel(directions: Array, x: Array, mask: Array | None) -> Array:
    """With the heads as the queries of one head as wide as x, whose keys and values are x itself."""
    num_heads, width = directions.shape
    # The kernel divides by the root of the width.
    scaled = (directions * math.sqrt(width)).astype(x.dtype)
    rows = jnp.pad(scaled, ((0, -num_heads % TILE_ROWS), (0, 0)))
    queries = jnp.broadcast_to(rows, (len(x), *rows.shape), out_sharding=rules.spec("btd"))
    return short_attention.attend((queries, x), (), mask, width, letter="d")


class ConcatPool(Module):
    """A linear map of all positions side by side: which place a token has is never lost, as in a network that ends in
    a fully connected layer."""

    def __init__(self, key: Key, num_tokens: int, width: int):
        shape = (num_tokens * width, width)
        self.projection = Linear(key, "de", shape, init=initializers.lecun_normal())

    def __call__(self, x: Array) -> Array:
        """x (b, t, d) -> (b, d)."""
        return self.projection(x.reshape(len(x), -1, out_sharding=rules.spec("bd")))


def take_position(x: Array, position: Array | int) -> Array:
    """x (b, t, d) at `position`, one for all or int (b,) -> (b, d), as a masked sum: exact, and local to each device.

    For a slice of one position XLA on TPU turns all of x around.
    """
    chosen = jnp.arange(x.shape[1]) == jnp.asarray(position)[..., None]
    return jnp.sum(jnp.where(chosen[..., None], x, 0), axis=1)


def masked_mean(x: Array, mask: Array) -> Array:
    """The mean of x (b, t, d) over the positions where `mask` (b, t) is True -> (b, d); 0 where none is."""
    total = jnp.sum(jnp.where(mask[:, :, None], x, 0), axis=1, dtype=jnp.float32)
    count = jnp.sum(mask, axis=1, keepdims=True, dtype=jnp.float32)
    return (total / jnp.maximum(count, 1)).astype(x.dtype)
