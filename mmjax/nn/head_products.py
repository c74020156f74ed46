"""The two products of attention, each head's by itself, in the form that is fastest where they run."""

import jax
import jax.numpy as jnp

from mmjax.parallel import rules
from mmjax.types import Array

Pair = tuple[Array, Array]

FEW_SCORES = 2**10
"""Of a head for one example, below which it is worth turning them: measured on x86, see `_sum_over_queries`."""


def scores_of(queries: Array, keys: Array) -> Array:
    """q (b, t, n, h) . k (b, s, n, h) -> (b, n, t, s)."""
    if rules.runs_on_cpu():
        return _inner(_heads_first(queries), _heads_first(keys))
    return jnp.einsum("btnh,bsnh->bnts", queries, keys, out_sharding=rules.spec("bnts"))


def read_by(shares: Array, values: Array) -> Array:
    """The sum over s of the shares (b, n, t, s) times v (b, s, n, h) -> (b, t, n, h)."""
    if rules.runs_on_cpu():
        return _heads_first(_weighted(shares, _heads_first(values)))
    return jnp.einsum("bnts,bsnh->btnh", shares, values, out_sharding=rules.spec("btnh"))


def _heads_first(x: Array) -> Array:
    """(b, t, n, h) as (b, n, t, h), and back: each head's rows then lie in memory as a matrix does.

    XLA on CPU multiplies those at up to twice the rate: attention with its projections, value and gradient, takes 0.93
    to 0.95 of the time at 177 and 257 positions.
    """
    return jnp.swapaxes(x, 1, 2)


@jax.custom_vjp
def _inner(queries: Array, keys: Array) -> Array:
    """(b, n, t, h) . (b, n, s, h) -> (b, n, t, s)."""
    return jnp.einsum("bnth,bnsh->bnts", queries, keys, out_sharding=rules.spec("bnts"))


@jax.custom_vjp
def _weighted(shares: Array, values: Array) -> Array:
    """(b, n, t, s) times (b, n, s, h) -> (b, n, t, h)."""
    return jnp.einsum("bnts,bnsh->bnth", shares, values, out_sharding=rules.spec("bnth"))


def _sum_over_queries(shares: Array, x: Array) -> Array:
    """(b, n, t, s) times (b, n, t, h) -> (b, n, s, h).

    XLA on CPU has its fast kernel for matrices that it need not turn, and turns them into the product where it can: of
    a few scores, which cost little to turn, the barrier keeps it from that. At 10 positions attention takes 0.82 of the
    time that it takes without.
    """
    if shares.shape[2] * shares.shape[3] < FEW_SCORES:
        return _weighted(jax.lax.optimization_barrier(jnp.swapaxes(shares, 2, 3)), x)
    return jnp.einsum("bnts,bnth->bnsh", shares, x, out_sharding=rules.spec("bnsh"))


def _inner_forward(queries: Array, keys: Array) -> tuple[Array, Pair]:
    return _inner(queries, keys), (queries, keys)


def _inner_backward(kept: Pair, cotangent: Array) -> Pair:
    queries, keys = kept
    by_queries, by_keys = _weighted(cotangent, keys), _sum_over_queries(cotangent, queries)
    return by_queries.astype(queries.dtype), by_keys.astype(keys.dtype)


def _weighted_forward(shares: Array, values: Array) -> tuple[Array, Pair]:
    return _weighted(shares, values), (shares, values)


def _weighted_backward(kept: Pair, cotangent: Array) -> Pair:
    shares, values = kept
    by_shares, by_values = _inner(cotangent, values), _sum_over_queries(shares, cotangent)
    return by_shares.astype(shares.dtype), by_values.astype(values.dtype)


_inner.defvjp(_inner_forward, _inner_backward)
_weighted.defvjp(_weighted_forward, _weighted_backward)
