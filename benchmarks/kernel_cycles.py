"""How long the kernel of short attention takes on a TPU, by what the compiler schedules for it, without a TPU.

    python benchmarks/kernel_cycles.py [--topology v5e:2x2] [--shape LENGTH,HEADS,HEAD_DIM ...] [--json FILE]

A TPU runs one bundle of instructions a cycle, in the order in which the compiler has packed them: the bundles of a
kernel's body are its cycles for one example, but for what waits for memory. They are read from the compiler's dump, in
a process for each shape (`pip install -r requirements-plan.txt`). The share of the peak is of the FLOPs that attention
asks for; of heads of 64 the matrix unit can reach half.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmjax.plan.environment import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mmjax.nn.short_attention import attend
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.topology import open_topology

SHAPES = ("64,12,64", "200,12,64", "256,16,64", "256,16,72")
NUM_ROWS = 16
PASSES = (("forward", 2), ("backward", 5))
"""And how many products of queries and keys each has."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--shape", action="append", help="positions, heads and numbers of a head")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--alone", help="compile this shape in this process")
    options = parser.parse_args(arguments)
    if options.alone:
        compiled(options.alone, options.topology)
        return
    rows = []
    print("| positions | heads | of | pass | bundles of an example | of the peak |\n|" + " --- |" * 6)
    for shape in options.shape or SHAPES:
        rows += measured(shape, options.topology)
        for row in rows[-len(PASSES) :]:
            print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def measured(shape: str, topology: str) -> list[dict[str, Any]]:
    """Of the forward and the backward kernel."""
    length, num_heads, head_dim = (int(size) for size in shape.split(","))
    chip = open_topology(topology).chip
    assert chip is not None
    rows = []
    for (name, products), bundles in zip(PASSES, bundles_of(shape, topology), strict=True):
        flops = products * 2 * length**2 * num_heads * head_dim
        share = flops / bundles * chip.clock_hz / chip.flops_per_sec
        sizes = {"positions": length, "heads": num_heads, "of": head_dim}
        rows.append(sizes | {"pass": name, "bundles": bundles, "share": round(share, 2)})
    return rows


def bundles_of(shape: str, topology: str) -> list[int]:
    """Of each kernel of the program, the smaller first: that is the forward pass."""
    with tempfile.TemporaryDirectory() as folder:
        dump = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
        command = [sys.executable, __file__, f"--alone={shape}", f"--topology={topology}"]
        subprocess.run(command, check=True, env=os.environ | {"LIBTPU_INIT_ARGS": dump}, stdout=subprocess.DEVNULL)
        texts = [file.read_text() for file in Path(folder).glob("*short_attention*schedule-analysis_final_bundles*")]
    return sorted(int(re.findall(r"total scheduled bundles:\s+(\d+)", text)[0]) for text in texts)


def compiled(shape: str, topology: str) -> None:
    """Compiles value and gradients of attention; the last positions are hidden where 16 does not divide them."""
    length, num_heads, head_dim = (int(size) for size in shape.split(","))
    mesh = make_mesh(MeshConfig(), open_topology(topology).devices[:1])

    def array(dims: str, *shape: int) -> jax.ShapeDtypeStruct:
        spec = rules.spec(dims)
        assert spec is not None
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec))

    with jax.set_mesh(mesh):
        width = num_heads * head_dim
        sides, biases, cotangent = (
            array("btn", NUM_ROWS, length, 3 * width),
            array("n", 3 * width),
            array("btn", NUM_ROWS, length, width),
        )

        def both(sides: jax.Array, biases: jax.Array, cotangent: jax.Array) -> Any:
            mask = (jnp.arange(length) < length - 4)[None, None, None] if length % 16 else None
            read, pull = jax.vjp(lambda sides, biases: attend((sides,), (biases,), mask, head_dim), sides, biases)
            return read, pull(cotangent)

        jax.jit(both).lower(sides, biases, cotangent).compile()


if __name__ == "__main__":
    main()
