"""One vector from the vectors of many positions."""

import jax
import jax.numpy as jnp
from jax.nn import initializers

from mmjax.nn.attention import Attention, source_mask
from mmjax.nn.linear import Linear
from mmjax.nn.mlp import MLP, Activation
from mmjax.nn.module import Module
from mmjax.nn.norm import LayerNorm
from mmjax.nn.parameter import parameter, weight
from mmjax.parallel import rules
from mmjax.types import Array, Key


class MapPool(Module):
    """Attention pooling: a learned probe looks at all positions, then y + mlp(norm(y)) (Lee et al., 2019, eq. 11;
    Zhai et al., 2022, Scaling ViT, sec. 3.2)."""

    def __init__(
        self, key: Key, width: int, num_heads: int, mlp_dim: int, *, activation: Activation, norm_eps: float = 1e-6
    ):
        keys = jax.random.split(key, 4)
        self.probe = parameter(keys[0], "od", (1, width), initializers.xavier_uniform())
        self.attention = Attention(keys[1], width, num_heads)
        self.norm = LayerNorm(keys[2], width, eps=norm_eps)
        self.mlp = MLP(keys[3], width, mlp_dim, activation)

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """x (b, t, d) -> (b, d); `mask` (b, t) is True for the positions that may be seen."""
        probe = weight(self.probe, x.dtype)
        queries = jnp.broadcast_to(probe, (x.shape[0], *probe.shape), out_sharding=rules.spec("btd"))
        y = self.attention(queries, source=x, mask=None if mask is None else source_mask(mask))
        return (y + self.mlp(self.norm(y)))[:, 0]


class ConcatPool(Module):
    """A linear map of all positions side by side: which place a token has is never lost, as in a network that ends in
    a fully connected layer."""

    def __init__(self, key: Key, num_tokens: int, width: int):
        init = initializers.lecun_normal(in_axis=(0, 1))
        self.projection = Linear(key, "tde", (num_tokens, width, width), num_inputs=2, init=init)

    def __call__(self, x: Array) -> Array:
        """x (b, t, d) -> (b, d)."""
        return self.projection(x)


def take_position(x: Array, position: Array) -> Array:
    """x (b, t, d) at `position` int (b,) -> (b, d), as a masked sum: exact, and local to the device of each row."""
    chosen = jnp.arange(x.shape[1]) == position[:, None]
    return jnp.sum(jnp.where(chosen[:, :, None], x, 0), axis=1)


def masked_mean(x: Array, mask: Array) -> Array:
    """The mean of x (b, t, d) over the positions where `mask` (b, t) is True -> (b, d); 0 where none is."""
    total = jnp.sum(jnp.where(mask[:, :, None], x, 0), axis=1, dtype=jnp.float32)
    count = jnp.sum(mask, axis=1, keepdims=True, dtype=jnp.float32)
    return (total / jnp.maximum(count, 1)).astype(x.dtype)
