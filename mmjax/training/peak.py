"""What the devices could do at best: the denominator of model FLOP utilisation (MFU)."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

PEAK_FLOPS_PER_SEC = {
    # Google Cloud documentation, "TPU architecture", bfloat16 peak of one chip; JAX sees one device a chip.
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    # NVIDIA data sheets, bfloat16 tensor cores without sparsity (half of the figure that is printed with it).
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989.5e12,
    "NVIDIA H100 PCIe": 756.5e12,
    "NVIDIA H100 NVL": 835.5e12,
    "NVIDIA H200": 989.5e12,
    "NVIDIA H200 NVL": 835.5e12,
    "NVIDIA GH200": 989.5e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GB200": 2500e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    # AMD data sheet, bfloat16 matrix cores without sparsity.
    "AMD Instinct MI300X": 1307.4e12,
}
"""bfloat16 FLOP/s by the beginning of JAX's `device_kind`. Where two fit, the longer one counts."""

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
    fitting = [kind for kind in PEAK_FLOPS_PER_SEC if device_kind.startswith(kind)]
    if fitting:
        kind = max(fitting, key=len)
        return Peak(PEAK_FLOPS_PER_SEC[kind] * num_devices, f"the bfloat16 data sheet of {kind}")
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
