"""What the devices could do at best: the denominator of model FLOP utilisation (MFU)."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmjax.parallel.chips import chip_of, name_of

MEASURED_SIZE = 2048
"""Side of the matrices that are multiplied to measure: large enough to run at full rate, 17 GFLOP."""
MEASURED_TIMES = 3


class Peak(NamedTuple):
    """FLOP/s of all devices together, and where the figure comes from."""

    flops_per_sec: float
    source: str


def peak_flops_per_sec(device_kind: str, num_devices: int, override: float = 0.0) -> Peak:
    """The peak of `num_devices` devices of a kind.

    A figure in the config wins; then the data sheet; a kind that is not in the table, such as "cpu", is measured with a
    float32 product. The data sheets' bfloat16 figure is used for float32 steps as well, as MFU is commonly given.

    Args:
        device_kind: `jax.devices()[0].device_kind`.
        num_devices: devices of the mesh. Virtual CPU devices share the cores of one: they are measured together.
        override: FLOP/s of one device, 0 for none.
    """
    if override:
        return Peak(override * num_devices, "the config")
    chip, name = chip_of(device_kind), name_of(device_kind)
    if chip is not None:
        return Peak(chip.flops_per_sec * num_devices, f"the bfloat16 data sheet of {name}")
    count = 1 if device_kind == "cpu" else num_devices
    return Peak(measure_matmul() * count, f"a measured float32 product of {MEASURED_SIZE} x {MEASURED_SIZE}")


def measure_matmul(size: int = MEASURED_SIZE, times: int = MEASURED_TIMES) -> float:
    """FLOP/s of a float32 (size, size) product on the first device, the best of `times`."""
    product = jax.jit(lambda a, b: a @ b)
    with jax.default_device(jax.local_devices()[0]):
        a = jnp.full((size, size), 0.5, jnp.float32)
        product(a, a).block_until_ready()
        return 2 * size**3 / min(_seconds(product, a) for _ in range(times))


def _seconds(product: jax.stages.Wrapped, a: jax.Array) -> float:
    start = time.perf_counter()
    product(a, a).block_until_ready()
    return time.perf_counter() - start
