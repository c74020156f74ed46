"""What this machine does, measured: the rates that stand for a data sheet when a plan is for CPU.

The best and the worst of each: products of large matrices and of small ones, an addition that only moves numbers and an
exponential that computes on them. A step of real layers lies between.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import psutil

from mmjax.parallel.chips import Chip
from mmjax.training.peak import measure_matmul

CACHED_BYTES, LARGE_BYTES = 2**22, 2**27
"""Of an array that the caches hold, and of one that is far larger and is new memory each time."""
SMALL, NUM_SMALL = 32, 2**14
"""Rows and columns of small matrices, and how many are multiplied at once: less than a head of attention has."""
TIMES = 5


@functools.cache
def measured_chip() -> Chip:
    """All cores as one device."""
    return Chip(
        measure_matmul(),
        psutil.virtual_memory().total,
        2 * CACHED_BYTES / _best_secs(lambda x: x + 1, jnp.zeros(CACHED_BYTES // 4, jnp.float32)),
        slow_flops_per_sec=_small_flops_per_sec(),
        slow_bytes_per_sec=2 * LARGE_BYTES / _best_secs(jnp.exp, jnp.zeros(LARGE_BYTES // 4, jnp.float32)),
    )


def shared_by(chip: Chip, count: int) -> Chip:
    """One of `count` virtual devices that share the cores, and all work at once."""
    names = ("flops_per_sec", "memory_bytes_per_sec", "slow_flops_per_sec", "slow_bytes_per_sec")
    rates = {name: getattr(chip, name) / count for name in names}
    return replace(chip, **rates, memory_bytes=chip.memory_bytes // count)


def _small_flops_per_sec() -> float:
    """Of many products of small matrices."""
    x = jnp.full((NUM_SMALL, SMALL, SMALL), 0.5, jnp.float32)
    return 2 * NUM_SMALL * SMALL**3 / _best_secs(lambda x: x @ x, x)


def _best_secs(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    compiled = jax.jit(function)
    compiled(x).block_until_ready()
    return min(_secs(compiled, x) for _ in range(TIMES))


def _secs(function: jax.stages.Wrapped, x: jax.Array) -> float:
    start = time.perf_counter()
    function(x).block_until_ready()
    return time.perf_counter() - start
