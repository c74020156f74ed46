"""Machines that are not there: `v5e:16x16`, `h100:8`, `cpu:8` as devices that a program can be compiled for."""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from mmjax.config import suggestion
from mmjax.errors import UserError
from mmjax.parallel.chips import Chip, chip_of
from mmjax.plan.gpu import GPUS_PER_NODE, gpu_devices
from mmjax.plan.gpu import KINDS as GPUS

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBIC = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
SLICES: Mapping[str, tuple[str, ...]] = {"v4": CUBIC, "v5e": FLAT, "v5p": CUBIC, "v6e": FLAT}
"""Shapes of slices that are offered, by the generation of TPU (Google Cloud documentation, "TPU v5e" and so on)."""


@dataclass(frozen=True)
class Topology:
    """So many devices of a kind, in slices or nodes."""

    name: str
    num_slices: int
    devices: Sequence[Any]

    @property
    def chip(self) -> Chip | None:
        """None on CPU, whose rates are measured."""
        return chip_of(self.devices[0].device_kind)

    @property
    def platform(self) -> str:
        kind = self.name.partition(":")[0]
        return "cpu" if kind == "cpu" else "gpu" if kind in GPUS else "tpu"

    @property
    def written(self) -> str:
        return self.name if self.num_slices == 1 else f"{self.num_slices} slices of {self.name}"


def num_devices(name: str, num_slices: int = 1) -> int:
    """How many devices a topology has, from its name alone.

    Raises:
        UserError: there is no such topology.
    """
    check(name)
    return num_slices * math.prod(int(size) for size in name.partition(":")[2].split("x"))


def check(name: str) -> None:
    """Refuses a name that is none.

    Raises:
        UserError: with the nearest that are known.
    """
    kind, _, size = name.partition(":")
    if kind in SLICES and size not in SLICES[kind]:
        known = [f"{kind}:{shape}" for shape in SLICES[kind]]
        raise UserError(f"topology {name!r} is not known: use one of {', '.join(known)}")
    if kind in SLICES:
        return
    if (kind in GPUS or kind == "cpu") and re.fullmatch(r"[1-9]\d*", size):
        if kind in GPUS and int(size) > GPUS_PER_NODE and int(size) % GPUS_PER_NODE:
            raise UserError(f"topology {name!r} has part of a node: give a multiple of {GPUS_PER_NODE} GPUs")
        return
    examples = [f"{tpu}:{shapes[3]}" for tpu, shapes in SLICES.items()] + [f"{gpu}:8" for gpu in GPUS] + ["cpu:8"]
    raise UserError(f"topology {name!r} is not known: {suggestion(name, examples)}")


def open_topology(name: str, num_slices: int = 1) -> Topology:
    """The devices of a topology, for which programs can be lowered and compiled.

    Raises:
        UserError: there is no such topology, or what compiles for it is not installed.
    """
    check(name)
    kind, _, size = name.partition(":")
    if kind not in SLICES and num_slices > 1:
        raise UserError("--slices is for TPU: give all devices in the name of the topology")
    if kind == "cpu":
        return Topology(name, 1, _cpu_devices(int(size)))
    if kind in GPUS:
        return Topology(name, 1, gpu_devices(kind, int(size)))
    return Topology(name, num_slices, _tpu_devices(name, num_slices))


def _cpu_devices(count: int) -> list[jax.Device]:
    if jax.config.jax_num_cpu_devices < count:  # type: ignore[attr-defined]
        # Once devices are there, their number stays as it is.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"JAX has {len(devices)} CPU devices already, not {count}: plan in a process of its own")
    return devices[:count]


def _tpu_devices(name: str, num_slices: int) -> Sequence[Any]:
    options: dict[str, Any] = {"num_slices": num_slices} if num_slices > 1 else {}
    if name.startswith(("v4:", "v5p:")):
        # The two cores of a chip are one device, as they are to JAX on the machine itself.
        options["chip_config_name"] = "megacore"
    if name.endswith(":1x1"):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except RuntimeError as error:
        if "not installed" in str(error):
            raise UserError("planning for TPU needs its compiler: pip install -r requirements-plan.txt") from error
        message = " ".join(str(error).split())[:200]
        raise UserError(f"the TPU compiler does not open {name!r} ({message}): try another topology") from error
