"""GPUs that are not there: the description of each kind that XLA compiles for, as the device itself would give it.

The compiler tiles and fuses by it. What it has beside `parallel.chips` is from NVIDIA's architecture white papers and
from the CUDA programming guide's table of compute capabilities.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.experimental import topologies

from mmjax.errors import UserError
from mmjax.parallel.chips import chip_of

PACKAGES = "pip install 'jax-cuda12-plugin[with-cuda]' at the version of jax"
GPUS_PER_NODE = 8


class Kind(NamedTuple):
    device_kind: str
    """As JAX calls it, by which `parallel.chips` knows its memory and rates."""
    major: int
    minor: int
    num_cores: int
    clock_ghz: float
    cache_bytes: int
    shared_bytes: int
    """Of a multiprocessor's shared memory, that a block may ask for."""


KINDS = {
    "a100": Kind("NVIDIA A100-SXM4-80GB", 8, 0, 108, 1.41, 40 * 2**20, 163 * 1024),
    "h100": Kind("NVIDIA H100 80GB HBM3", 9, 0, 132, 1.98, 50 * 2**20, 227 * 1024),
    "h200": Kind("NVIDIA H200", 9, 0, 132, 1.98, 50 * 2**20, 227 * 1024),
    "b200": Kind("NVIDIA B200", 10, 0, 148, 1.96, 126 * 2**20, 227 * 1024),
}


def gpu_devices(kind: str, count: int) -> Sequence[Any]:
    """So many devices, in nodes of eight.

    Raises:
        UserError: the CUDA plugin is not installed.
    """
    hosts, each = max(1, count // GPUS_PER_NODE), min(count, GPUS_PER_NODE)
    try:
        described = topologies.get_topology_desc(
            platform="cuda", target_config=target_config(KINDS[kind]), topology=f"1x{hosts}x{each}"
        )
    except NotImplementedError as error:
        raise UserError(f"planning for GPU needs the CUDA compiler: {PACKAGES}") from error
    return described.devices


def target_config(kind: Kind) -> str:
    """The description in the text form of XLA's `GpuTargetConfigProto`."""
    chip = chip_of(kind.device_kind)
    assert chip is not None
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {kind.shared_bytes + 1024}
  threads_per_core_limit: 2048
  core_count: {kind.num_cores}
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(chip.memory_bytes_per_sec)}
  l2_cache_size: {kind.cache_bytes}
  clock_rate_ghz: {kind.clock_ghz}
  device_memory_size: {chip.memory_bytes}
  shared_memory_per_block_optin: {kind.shared_bytes}
  cuda_compute_capability {{
    major: {kind.major}
    minor: {kind.minor}
  }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{
  major: 9
  minor: 8
  patch: 0
}}
device_description_str: "{kind.device_kind}"
"""
