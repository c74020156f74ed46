"""What accelerators can do at best: one table, with its sources.

TPU: Google Cloud documentation, page "TPU v4" and so on: bfloat16 peak, memory and its bandwidth of one chip, speed of
its links. The memories are what the compiler lets a program have, by its own message where a program is too large. The
clock follows from the peak and the matrix units, of which the documentation gives number and size. A chip of a flat
slice has a link in each of four directions, one of a cube in each of six; `link_bytes_per_sec` is one link, one way.

GPU: NVIDIA data sheets of the SXM forms: dense bfloat16 peak (half of the figure that is printed with sparsity),
memory, bandwidth, NVLink in one direction. AMD: data sheet of MI300X.

Network: of a chip's share of what joins slices, or nodes of eight GPUs: of TPUs by "How to Scale Your Model" (Austin et
al., 2025, section 2), of GPUs one port of 400 Gbit/s each, as the DGX reference designs have (A100: 200).
"""

from dataclasses import dataclass

MIB, GIB = 2**20, 2**30
SUBLANES, LANES = 8, 128
"""Rows of a register of a TPU, and the numbers side by side in each; tiles of its memory have that size, too."""


@dataclass(frozen=True)
class Chip:
    """One device as JAX counts them. Where a figure is not known it is 0: then nothing is said of what needs it.

    flops_per_sec: in bfloat16.
    memory_bytes: that a program may use.
    memory_bytes_per_sec: of that memory.
    clock_hz: cycles of the compiler's estimates.
    link_bytes_per_sec: of one link, one way.
    links: how many of them.
    network_bytes_per_sec: of what joins slices or nodes, one way.
    fast_memory_bytes: of the memory beside a core, in which kernels compute.
    slow_flops_per_sec, slow_bytes_per_sec: what it does at worst, where that was measured: on CPU.
    """

    flops_per_sec: float
    memory_bytes: int = 0
    memory_bytes_per_sec: float = 0.0
    clock_hz: float = 0.0
    link_bytes_per_sec: float = 0.0
    links: int = 0
    network_bytes_per_sec: float = 0.0
    fast_memory_bytes: int = 0
    slow_flops_per_sec: float = 0.0
    slow_bytes_per_sec: float = 0.0


CHIPS: dict[str, Chip] = {
    "TPU v4": Chip(275e12, int(30.75 * GIB), 1228e9, 1.05e9, 50e9, 6, 3.1e9, 16 * MIB),
    "TPU v5 lite": Chip(197e12, int(15.75 * GIB), 819e9, 1.5e9, 50e9, 4, 3.1e9, 128 * MIB),
    "TPU v5": Chip(459e12, int(95.74 * GIB), 2765e9, 1.75e9, 100e9, 6, 6.25e9, 64 * MIB),
    "TPU v6 lite": Chip(918e12, int(31.25 * GIB), 1640e9, 1.75e9, 112e9, 4, 12.5e9, 128 * MIB),
    "NVIDIA A100": Chip(312e12, 80 * 10**9, 2039e9, 0, 300e9, 1, 25e9),
    "NVIDIA H100": Chip(989.5e12, 80 * 10**9, 3350e9, 0, 450e9, 1, 50e9),
    "NVIDIA H100 PCIe": Chip(756.5e12),
    "NVIDIA H100 NVL": Chip(835.5e12),
    "NVIDIA H200": Chip(989.5e12, 141 * 10**9, 4800e9, 0, 450e9, 1, 50e9),
    "NVIDIA H200 NVL": Chip(835.5e12),
    "NVIDIA GH200": Chip(989.5e12),
    "NVIDIA B200": Chip(2250e12, 180 * 10**9, 8000e9, 0, 900e9, 1, 50e9),
    "NVIDIA GB200": Chip(2500e12),
    "NVIDIA L4": Chip(121e12),
    "NVIDIA L40S": Chip(362e12),
    "AMD Instinct MI300X": Chip(1307.4e12),
}
"""By the beginning of JAX's `device_kind`. Where two fit, the longer one counts."""


def chip_of(device_kind: str) -> Chip | None:
    """The chip that is called so, or None."""
    name = name_of(device_kind)
    return None if name is None else CHIPS[name]


def name_of(device_kind: str) -> str | None:
    """The name in `CHIPS` that fits a device kind best, or None."""
    return max((kind for kind in CHIPS if device_kind.startswith(kind)), key=len, default=None)
