"""Checksums of the arrays of a state, computed where they lie and equal on every mesh."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from mmjax.types import Array

GOLDEN_RATIO = 0x9E3779B1
"""2^32 divided by the golden ratio: multiples of it spread evenly (Knuth, The Art of Computer Programming, 6.4)."""


def describe(tree: Any) -> dict[str, dict[str, Any]]:
    """Shape, type and checksum of each array of `tree`, by its path: JSON to be kept with what is saved.

    The checksum of an array is the sum of its elements' bits, each times an odd number that follows from its place,
    modulo 2^32. A changed bit always changes it; integers add up alike in any order, so the sharding does not matter.
    One pass over memory on the devices; the host waits for the results.
    """
    return start_describing(tree)()


def start_describing(tree: Any) -> Callable[[], dict[str, dict[str, Any]]]:
    """What `describe` returns, once it is called; until then the devices count, and `tree` may be donated to a step."""
    sums, shapes = _checksums(tuple(jax.tree.leaves(tree))), describe_shapes(tree)

    def description() -> dict[str, dict[str, Any]]:
        values = map(int, jax.device_get(sums))
        return {path: {**shapes[path], "checksum": value} for path, value in zip(shapes, values, strict=True)}

    return description


def describe_shapes(tree: Any) -> dict[str, dict[str, Any]]:
    """Shape and type of each array of `tree`, by its path; the arrays need no values."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): {"shape": list(x.shape), "dtype": x.dtype.name}
        for path, x in leaves
    }


@jax.jit
def _checksums(leaves: tuple[Array, ...]) -> tuple[Array, ...]:
    # In one program: of several at once, each with a sum over devices, virtual devices of a CPU wait for each other.
    return tuple(map(_checksum, leaves))


def _checksum(x: Array) -> Array:
    """uint32 (): under `auto_axes`, so that the compiler splits the counting as the array is split."""
    if jax.sharding.get_abstract_mesh().empty:
        return _weighted_bits(x)
    return jax.sharding.auto_axes(_weighted_bits, out_sharding=PartitionSpec())(x)


def _weighted_bits(x: Array) -> Array:
    bits = _bits(x)
    place = _place(bits.shape) * jnp.uint32(GOLDEN_RATIO)
    odd = (place ^ (place >> 15)) | 1
    return jnp.sum(bits * odd, dtype=jnp.uint32)


def _bits(x: Array) -> Array:
    """The bits of each element as uint32; of elements of 8 bytes as two."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _place(shape: tuple[int, ...]) -> Array:
    """uint32 of `shape`: how many elements lie before each."""

    def along(axis: int) -> Array:
        stride = math.prod(shape[axis + 1 :])
        return jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)

    return functools.reduce(jnp.add, map(along, range(len(shape))), jnp.zeros(shape, jnp.uint32))
