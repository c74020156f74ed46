"""What the contrastive losses ask of a device: memory, FLOPs, bytes sent, by the compiler's own account.

    python benchmarks/loss_memory.py [--topology v5e:16x16|cpu:8 --batch N --width D --loss KIND --implementation NAME]
                                     [--kernel xla|pallas --tile ROWS --json FILE]

Compiles value and gradients for a real TPU topology, without a TPU (`pip install -r requirements-plan.txt`), or for
virtual CPU devices, and writes a Markdown table. Options may be repeated: every combination is a row.

Memory is the peak of a device, inputs and gradients included, as the TPU compiler counts it; on CPU it is what is held
beside inputs and outputs. FLOPs are those of matrix products. A loop counts as often as it runs. The compiler cannot
see into a Pallas kernel: its cycles are the more of its FLOPs (six passes of the matrix unit) and of its bytes, at the
rates of the chip, stand beside the compiler's own estimate of the rest, and are in no other column.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmjax.plan.environment import ENVIRONMENT

# Before jax is imported.
os.environ.update(ENVIRONMENT)

import jax
import jax.numpy as jnp

from mmjax.losses import contrastive
from mmjax.losses.choice import Choice, KernelChoice, Kind
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.program import KernelCost, Program
from mmjax.plan.topology import open_topology
from mmjax.training.flops import count_flops

DEFAULTS = [
    ("v5e:16x16", 1_048_576, 768, ("sigmoid", "softmax"), ("dense", "gather", "ring")),
    ("v5e:16x16", 262_144, 768, ("sigmoid", "softmax"), ("dense", "gather", "ring")),
    ("cpu:8", 32_768, 512, ("sigmoid", "softmax"), ("dense", "gather", "ring")),
]
COLUMNS = {
    "topology": "topology",
    "batch": "batch",
    "width": "width",
    "loss": "loss",
    "implementation": "implementation",
    "peak_bytes": "peak MiB",
    "temp_bytes": "temp MiB",
    "flops": "TFLOP",
    "sent_bytes": "sent MiB",
    "kernel": "kernel",
    "estimated_cycles": "10^6 cycles",
    "kernel_cycles": "of the kernel",
    "compile_secs": "compile s",
}
UNITS = {"peak_bytes": 2**20, "temp_bytes": 2**20, "sent_bytes": 2**20, "flops": 1e12}
UNITS |= {"estimated_cycles": 1e6, "kernel_cycles": 1e6}

FLOAT32_PASSES = 6
"""Passes of a matrix unit of bfloat16 that an exact product of float32 takes."""


class Case(NamedTuple):
    topology: str
    batch: int
    width: int
    loss: Kind
    implementation: Choice


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    jax.config.update("jax_num_cpu_devices", cpu_devices(options))
    rows = []
    print(line(list(COLUMNS.values())), line(["---"] * len(COLUMNS)), sep="\n")
    for case in cases(options):
        rows.append(measure(case, options.tile, options.kernel))
        print(line([written(name, rows[-1]) for name in COLUMNS]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", action="append", help="v5e:16x16, ... or cpu:NUMBER")
    parser.add_argument("--batch", action="append", type=int)
    parser.add_argument("--width", action="append", type=int)
    parser.add_argument("--loss", action="append", choices=("sigmoid", "softmax"))
    parser.add_argument("--implementation", action="append", choices=("auto", "dense", "gather", "ring"))
    parser.add_argument("--kernel", choices=("auto", "xla", "pallas"), default="auto", help="what computes a tile")
    parser.add_argument("--tile", type=int, help="most rows of a tile; by default what the loss takes")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    return parser.parse_args(arguments)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """The default table, or every combination where an option is given, with the defaults' values for the others."""
    given = (options.topology, options.batch, options.width, options.loss, options.implementation)
    if not any(given):
        for topology, batch, width, *names in DEFAULTS:
            yield from itertools.starmap(Case, itertools.product([topology], [batch], [width], *names))
        return
    topology, batch, width, *names = DEFAULTS[0]
    defaults: list[Sequence[Any]] = [[topology], [batch], [width], *names]
    chosen: list[Sequence[Any]] = [values or default for values, default in zip(given, defaults, strict=True)]
    yield from itertools.starmap(Case, itertools.product(*chosen))


def cpu_devices(options: argparse.Namespace) -> int:
    """Virtual devices to start with: the most that any row asks for."""
    topologies_ = {case.topology for case in cases(options)}
    return max([1, *(int(name.removeprefix("cpu:")) for name in topologies_ if name.startswith("cpu:"))])


def measure(case: Case, tile: int | None, kernel: KernelChoice) -> dict[str, Any]:
    """A row of the table; where the compiler finds no room, its figures are None and `error` has its words."""

    def loss(image_embed: Any, text_embed: Any, log_scale: Any, bias: Any) -> Any:
        options: Any = {"kind": case.loss, "implementation": case.implementation, "tile": tile, "kernel": kernel}
        return contrastive(image_embed, text_embed, log_scale, bias, **options).value

    mesh = make_mesh(MeshConfig(), open_topology(case.topology).devices)
    row: dict[str, Any] = {**dict.fromkeys(COLUMNS), **case._asdict(), "error": None}
    with jax.set_mesh(mesh):
        embed = jax.ShapeDtypeStruct((case.batch, case.width), jnp.float32, sharding=rules.batch_sharding(mesh))
        scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=rules.replicated(mesh))
        args = (embed, embed, scalar, scalar)
        function = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))
        row["flops"] = count_flops(function, *args) // mesh.size
        lowered = jax.jit(function).lower(*args)
        start = time.perf_counter()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            row["error"] = " ".join(str(error).split())[:300]
            return row
        row["compile_secs"] = time.perf_counter() - start
    memory: Any = compiled.memory_analysis()
    program = Program(compiled.as_text() or "")
    row |= {"peak_bytes": memory.peak_memory_in_bytes, "temp_bytes": memory.temp_size_in_bytes}
    row |= {"sent_bytes": program.sent_bytes, "estimated_cycles": program.estimated_cycles}
    cost = program.kernel_cost
    return row | {"kernel": "pallas" if cost.flops else "xla", "kernel_cycles": kernel_cycles(cost, case.topology)}


def kernel_cycles(cost: KernelCost, topology: str) -> float | None:
    """The least that the kernels take, by what they compute and move; None where there are none."""
    chip = open_topology(topology).chip
    if not cost.flops or chip is None:
        return None
    secs = max(FLOAT32_PASSES * cost.flops / chip.flops_per_sec, cost.num_bytes / chip.memory_bytes_per_sec)
    return chip.clock_hz * secs


def written(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if value is None:
        return "does not fit" if name == "peak_bytes" else "-"
    if name in UNITS:
        return f"{value / UNITS[name]:,.2f}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
