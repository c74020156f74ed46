"""What this machine does, measured: the rates that stand for a data sheet when a plan is for CPU."""

import functools
import time

import jax
import jax.numpy as jnp
import psutil

from mmjax.parallel.chips import Chip
from mmjax.training.peak import measure_matmul

COPIED_BYTES = 2**28
"""Far more than the caches hold."""
TIMES = 5


@functools.cache
def measured_chip() -> Chip:
    """All cores as one device; virtual devices share them, so each has its part only while the others wait."""
    memory = psutil.virtual_memory().total
    return Chip(measure_matmul(), memory, copy_bytes_per_sec())


def copy_bytes_per_sec() -> float:
    """Bytes read and written a second by an addition that reads one array and writes another, the best of `TIMES`."""
    add = jax.jit(lambda x: x + 1)
    with jax.default_device(jax.local_devices()[0]):
        x = jnp.zeros(COPIED_BYTES // 4, jnp.float32)
        add(x).block_until_ready()
        return 2 * COPIED_BYTES / min(_seconds(add, x) for _ in range(TIMES))


def _seconds(function: jax.stages.Wrapped, x: jax.Array) -> float:
    start = time.perf_counter()
    function(x).block_until_ready()
    return time.perf_counter() - start
