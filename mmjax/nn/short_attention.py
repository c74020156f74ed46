"""Attention of short sequences as one Pallas kernel for TPU: scores and shares never leave the chip.

XLA writes the scores of every head to the large memory, several times over, and turns queries, keys and values around
to bring heads in front of positions. Here a block is one example with all its heads side by side, as the projections
give and take them; all keys of a query are there at once, so that the softmax is the plain one, and the backward kernel
computes it again from queries and keys.

Heads narrower than a register's 128 lanes share one. A product over all its lanes, in which those of the other heads
are zeros, takes the matrix unit as long as one over a head's lanes alone, and nothing is moved. Scores are held with
keys along sublanes and queries along lanes: the softmax then adds up whole registers, and what it is multiplied with is
turned, once for all heads of a register, and not the scores of each.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mmjax.parallel import rules
from mmjax.parallel.chips import LANES, SUBLANES, chip_of
from mmjax.types import Array

DEFAULT_LIMIT_BYTES = 16 * 2**20
USABLE_SHARE = 0.7
"""Of the fast memory, that blocks and scores may take by our count; the compiler adds what it moves."""
MASKED = -1e30
"""The score of a masked pair: finite, so that a row with every key masked is uniform and not NaN."""

BY_ROWS, TURNED, PLAIN = (1, 1), (0, 0), (1, 0)
"""Which axes of two matrices a product sums over."""


def fits(
    x: Array, source: Array, mask: Array | None, num_heads: int, head_dim: int, *, letter: Literal["n", "d"] = "n"
) -> bool:
    """Whether the kernel takes heads of queries from x (b, t, d) and of keys from source (b, s, d), and the mask.

    It does in bfloat16 on TPU, where the heads of a device fill whole registers. `letter` as in `attend`.
    """
    if not rules.runs_on_tpu() or x.dtype != jnp.bfloat16 or x.ndim != 3:
        return False
    num_parts = rules.num_tensor_parts() if letter == "n" else 1
    num_queries, num_keys, width = x.shape[1], source.shape[1], num_heads * head_dim // num_parts
    fills = width % math.lcm(head_dim, LANES) == 0 and head_dim % SUBLANES == 0
    needed = _fast_bytes(num_queries, num_keys, width)
    # A register of fewer queries is mostly empty.
    sizes = num_queries >= SUBLANES and needed <= USABLE_SHARE * _fast_memory_bytes()
    return fills and sizes and (mask is None or mask.shape[1] == 1)


def _fast_bytes(num_queries: int, num_keys: int, width: int) -> int:
    """What the backward kernel holds in the fast memory: seven blocks of bfloat16, each twice, as the next is fetched
    and the last is written meanwhile; what it turns of them; and scores in float32, six times."""
    blocks, turned = 2 * 7, 6
    return 2 * (blocks + turned) * max(num_queries, num_keys) * width + 6 * 4 * num_queries * num_keys


def _fast_memory_bytes() -> int:
    chip = chip_of(rules.device_kind(rules.current_mesh()))
    return 0 if chip is None else chip.fast_memory_bytes


def attend(
    sides: Sequence[Array],
    biases: Sequence[Array],
    mask: Array | None,
    head_dim: int,
    *,
    letter: Literal["n", "d"] = "n",
    interpret: bool = False,
) -> Array:
    """softmax(q k^T / sqrt(h)) v -> (b, t, w), heads side by side, the softmax in float32.

    `sides` are queries (b, t, w), keys and values (b, s, w), in that order; those that come of one product are one
    array, side by side on each device (`linear.joined`): (b, t, 3 w), or (b, t, w) and (b, s, 2 w). Keys that are
    values too are given once: (b, t, w) and (b, s, w). `biases`, none or (3 w,), or (w,) and (2 w,), are in them
    already, as constants: their gradients, which sum those of the sides over examples and positions, are computed in
    the kernel, where these are at hand. `mask` is bool (b or 1, 1, t or 1, s), True where the query sees the key.
    `letter` names w: heads "n" are split over the tensor axis, "d" is whole on each device. `interpret` runs it on CPU,
    for tests.
    """
    masks = () if mask is None else (mask[:, 0].astype(jnp.float32),)
    local = functools.partial(_attend, head_dim, interpret)
    spec, bias_spec = rules.spec("bt" + letter), rules.spec(letter)
    if spec is None:
        return local(tuple(sides), tuple(biases), masks)
    mask_specs = tuple(rules.spec("bts" if len(mask) > 1 else "ots") for mask in masks)
    specs: Any = ((spec,) * len(sides), (bias_spec,) * len(biases), mask_specs)
    spread = jax.shard_map(local, in_specs=specs, out_specs=spec, check_vma=False)
    attended: Array = spread(tuple(sides), tuple(biases), masks)
    return attended


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    head_dim: int, interpret: bool, sides: tuple[Array, ...], biases: tuple[Array, ...], masks: tuple[Array, ...]
) -> Array:
    """On one device."""
    kernel = functools.partial(_forward_kernel, head_dim, len(sides), bool(masks))
    read = jax.ShapeDtypeStruct((*sides[0].shape[:2], _width(sides)), sides[0].dtype)
    return _call(kernel, head_dim, 2, sides, masks, [read], interpret)[0]


def _attend_forward(
    head_dim: int, interpret: bool, sides: tuple[Array, ...], biases: tuple[Array, ...], masks: tuple[Array, ...]
) -> tuple[Array, tuple[Any, ...]]:
    return _attend(head_dim, interpret, sides, biases, masks), (sides, biases, masks)


def _attend_backward(head_dim: int, interpret: bool, kept: tuple[Any, ...], cotangent: Array) -> tuple[Any, ...]:
    sides, biases, masks = kept
    kernel = functools.partial(_backward_kernel, head_dim, len(sides), bool(masks))
    by_sides = [jax.ShapeDtypeStruct(side.shape, side.dtype) for side in sides]
    sums = [jax.ShapeDtypeStruct((len(sides[0]), 1, len(bias)), jnp.float32) for bias in biases]
    found = _call(kernel, head_dim, 5, sides, (cotangent, *masks), [*by_sides, *sums], interpret)
    by_biases = [jnp.sum(part, axis=(0, 1)) for part in found[len(sides) :]]
    by_biases = [part.astype(bias.dtype) for part, bias in zip(by_biases, biases, strict=True)]
    return tuple(found[: len(sides)]), tuple(by_biases), jax.tree.map(jnp.zeros_like, masks)


_attend.defvjp(_attend_forward, _attend_backward)


def _width(sides: Sequence[Any]) -> int:
    """Of all heads side by side: that of the queries, where they are an array of their own."""
    return sides[0].shape[-1] // (3 if len(sides) == 1 else 1)


def _call(
    kernel: Any,
    head_dim: int,
    num_products: int,
    sides: Sequence[Array],
    others: Sequence[Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    interpret: bool,
) -> list[Array]:
    """Runs `kernel` on the sides and others of each example; its results are `outputs`."""
    (num_rows, num_queries), num_keys, width = sides[0].shape[:2], sides[-1].shape[1], _width(sides)
    scores = num_rows * num_queries * num_keys
    arrays: list[Any] = [*sides, *others, *outputs]
    moved = sum(x.size * x.dtype.itemsize for x in arrays)
    cost = pl.CostEstimate(
        flops=2 * num_products * scores * width,
        transcendentals=scores * (width // head_dim),
        bytes_accessed=moved,
    )
    limit = _limit_bytes(num_queries, num_keys, width)
    called: list[Array] = pl.pallas_call(
        kernel,
        grid=(num_rows,),
        in_specs=[_block(x) for x in (*sides, *others)],
        out_specs=[_block(x) for x in outputs],
        out_shape=list(outputs),
        cost_estimate=cost,
        compiler_params=None if interpret else pltpu.CompilerParams(vmem_limit_bytes=limit),
        interpret=interpret,
        name="short_attention",
    )(*sides, *others)
    return called


def _limit_bytes(num_queries: int, num_keys: int, width: int) -> int:
    """The fast memory that the compiler may use: its default, where that is enough."""
    needed = int(_fast_bytes(num_queries, num_keys, width) / USABLE_SHARE)
    return min(max(needed, DEFAULT_LIMIT_BYTES), _fast_memory_bytes())


def _block(x: Any) -> pl.BlockSpec:
    """One example; of what is the same for all, always the first."""
    is_shared = x.shape[0] == 1
    return pl.BlockSpec((1, *x.shape[1:]), lambda row: (0 if is_shared else row, 0, 0))


def _forward_kernel(head_dim: int, num_sides: int, has_mask: bool, *refs: Any) -> None:
    """What each query reads, chunk by chunk of heads."""
    out_ref = refs[-1]
    side_refs = _three(_apart(refs[:num_sides], out_ref.shape[-1]))
    seen = _seen(refs[num_sides]) if has_mask else None
    for chunk in _chunks(out_ref, head_dim):
        queries, keys, values = (ref[0, :, chunk] for ref in side_refs)
        turned, parts = values.T, []
        for own in _heads(chunk, head_dim):
            weights, total = _weights(queries, keys, own, seen)
            parts.append(_product(turned[own], weights.astype(values.dtype), PLAIN) / total)
        out_ref[0, :, chunk] = jnp.concatenate(parts).astype(out_ref.dtype).T


def _backward_kernel(head_dim: int, num_sides: int, has_mask: bool, *refs: Any) -> None:
    """The derivatives by queries, keys and values, and, where sides have biases, their sums over positions.

    With p the shares: ds = p (dp - sum of p dp over the keys).
    """
    cotangent_ref, results = refs[num_sides], refs[num_sides + 1 + has_mask :]
    width = cotangent_ref.shape[-1]
    side_refs, by_side_refs, sum_refs = (
        _apart(part, width) for part in (refs[:num_sides], results[:num_sides], results[num_sides:])
    )
    seen = _seen(refs[num_sides + 1]) if has_mask else None
    for chunk in _chunks(cotangent_ref, head_dim):
        queries, keys, values = (ref[0, :, chunk] for ref in _three(side_refs))
        cotangent = cotangent_ref[0, :, chunk]
        by_sides: tuple[list[Array], ...] = ([], [], [])
        turned_queries, turned_keys, turned_cotangent = queries.T, keys.T, cotangent.T
        for own in _heads(chunk, head_dim):
            weights, total = _weights(queries, keys, own, seen)
            shares = weights / total
            by_shares = _of_head(values, cotangent, own)
            by_scores = shares * (by_shares - jnp.sum(shares * by_shares, axis=0, keepdims=True))
            by_scores = (by_scores / math.sqrt(head_dim)).astype(queries.dtype)
            by_sides[0].append(_product(turned_keys[own], by_scores, PLAIN))
            by_sides[1].append(_product(turned_queries[own], by_scores, BY_ROWS))
            by_sides[2].append(_product(turned_cotangent[own], shares.astype(values.dtype), BY_ROWS))
        joined = [jnp.concatenate(parts) for parts in by_sides]
        if len(by_side_refs) == 2:
            joined = [joined[0], joined[1] + joined[2]]
        for part, by_side_ref, sum_ref in itertools.zip_longest(joined, by_side_refs, sum_refs):
            by_side = part.astype(by_side_ref.dtype).T
            by_side_ref[0, :, chunk] = by_side
            if sum_ref is not None:
                sum_ref[0, :, chunk] = jnp.sum(by_side.astype(jnp.float32), axis=0, keepdims=True)


def _apart(refs: Sequence[Any], width: int) -> list[Any]:
    """Of queries, keys and values, which may lie side by side."""
    return [ref.at[:, :, start : start + width] for ref in refs for start in range(0, ref.shape[-1], width)]


def _three(side_refs: Sequence[Any]) -> Sequence[Any]:
    """Queries, keys and values, where values may be the keys."""
    return (*side_refs, side_refs[-1])[:3]


def _chunks(ref: Any, head_dim: int) -> list[slice]:
    """Lanes that are whole heads and whole registers."""
    size = math.lcm(head_dim, LANES)
    return [slice(start, start + size) for start in range(0, ref.shape[-1], size)]


def _heads(chunk: slice, head_dim: int) -> list[slice]:
    """The lanes of each head, counted from the beginning of its chunk."""
    return [slice(start, start + head_dim) for start in range(0, chunk.stop - chunk.start, head_dim)]


def _seen(ref: Any) -> Array:
    """The mask (t or 1, s) with keys along sublanes: bool (s, t or 1)."""
    mask = ref[0]
    if mask.shape[0] == 1:
        return jnp.broadcast_to(mask, (SUBLANES, mask.shape[1])).T[:, :1] > 0
    return mask.T > 0


def _weights(queries: Array, keys: Array, own: slice, seen: Array | None) -> tuple[Array, Array]:
    """exp(score - greatest score) float32 (s, t) of one head, and their sums over the keys (1, t)."""
    scores = _of_head(keys, queries, own) * (math.log2(math.e) / math.sqrt(own.stop - own.start))
    scores = scores if seen is None else jnp.where(seen, scores, MASKED)
    weights = jnp.exp2(scores - jnp.max(scores, axis=0, keepdims=True))
    return weights, jnp.sum(weights, axis=0, keepdims=True)


def _of_head(left: Array, right: Array, own: slice) -> Array:
    """left (s, lanes) times right (t, lanes) over the lanes of one head -> float32 (s, t).

    All lanes of its registers are multiplied, those of other heads by zeros.
    """
    start, stop = own.start // LANES * LANES, -(-own.stop // LANES) * LANES
    left, right = left[:, start:stop], right[:, start:stop]
    if own.stop - own.start < stop - start:
        lane = jax.lax.broadcasted_iota(jnp.int32, right.shape, 1) + start
        right = jnp.where((lane >= own.start) & (lane < own.stop), right, jnp.zeros_like(right))
    return _product(left, right, BY_ROWS)


def _product(left: Array, right: Array, axes: tuple[int, int]) -> Array:
    """Summed over one axis of each; bfloat16 in, float32 out."""
    dims = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(left, right, dims, preferred_element_type=jnp.float32)
