"""What activations that keep their input alone save, by the compiler's own account: memory and cycles.

    python benchmarks/activation_memory.py [--batch 32 --length 197 --width 768 --depth 12 --dtype bfloat16]
                                           [--topology v5e:2x2 --json FILE]

Value and gradient of a scan over feed-forward layers on one chip, without rematerialisation, with the activations of
`nn.mlp` and with the same formulas as `jax.nn` differentiates them, are compiled for a real TPU topology without a TPU
(`pip install -r requirements-plan.txt`). Cycles are the compiler's estimate, and too high for vector operations.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before jax is imported: no TPU is looked for, and the compiler may be loaded beside another.
os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from mmjax.nn import mlp
from mmjax.training.hlo import Program
from mmjax.types import Array

Activation = Callable[[Array], Array]
PLAIN: dict[str, Activation] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    rows = []
    print("| activation | by | peak MiB | 10^6 cycles |\n| --- | --- | --- | --- |")
    for name, plain in PLAIN.items():
        for by, activation in (("jax.nn", plain), ("mmjax", getattr(mlp, name))):
            peak, cycles = costs(activation, options)
            rows.append({"activation": name, "by": by, "peak_bytes": peak, "estimated_cycles": cycles})
            print(f"| {name} | {by} | {peak / 2**20:.0f} | {cycles / 1e6:.1f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 32), ("length", 197), ("width", 768), ("depth", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args(arguments)


def costs(activation: Activation, options: argparse.Namespace) -> tuple[int, int]:
    """Bytes of memory at the peak, and cycles."""

    def layer(x: Array, matrices: tuple[Array, Array]) -> tuple[Array, None]:
        up, down = (matrix.astype(options.dtype) for matrix in matrices)
        return x + activation(x @ up) @ down, None

    def loss(matrices: tuple[Array, Array], x: Array) -> Array:
        y, _ = jax.lax.scan(layer, x.astype(options.dtype), matrices)
        return jnp.sum(jnp.square(y.astype(jnp.float32)))

    chip = topologies.get_topology_desc(platform="tpu", topology_name=options.topology).devices[0]
    depth, width, mlp_dim = options.depth, options.width, 4 * options.width
    shapes = ((depth, width, mlp_dim), (depth, mlp_dim, width)), (options.batch, options.length, width)
    matrices, x = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=jax.sharding.SingleDeviceSharding(chip)),
        shapes,
        is_leaf=lambda shape: isinstance(shape[0], int),
    )
    compiled = jax.jit(jax.value_and_grad(loss)).lower(matrices, x).compile()
    memory: Any = compiled.memory_analysis()
    return memory.peak_memory_in_bytes, Program(compiled.as_text() or "").estimated_cycles or 0


if __name__ == "__main__":
    main()
