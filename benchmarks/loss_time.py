"""Times value and gradients of the contrastive losses on virtual CPU devices, each beside the dense form.

    python benchmarks/loss_time.py [--devices 8 --batch 8192 --width 512 --repeats 7] [--json FILE]

Implementations take turns, so that what else the machine does hits all of them; the ratios are of medians. XLA on CPU
runs virtual devices as threads of one machine: the figures are those of the arithmetic, not of a network.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.losses import contrastive
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh

IMPLEMENTATIONS = ("dense", "gather", "ring")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices)
    rows = []
    print("| loss | implementation | median s | of dense |\n| --- | --- | --- | --- |")
    for kind in ("sigmoid", "softmax"):
        medians = measure(kind, options)
        for name, secs in medians.items():
            rows.append({"loss": kind, "implementation": name, "secs": secs, "ratio": secs / medians["dense"]})
            print(f"| {kind} | {name} | {secs:.3f} | {rows[-1]['ratio']:.2f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("devices", 8), ("batch", 8192), ("width", 512), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tile", type=int, help="most rows of a tile; by default what the loss takes")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args(arguments)


def measure(kind: str, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each implementation."""
    with jax.set_mesh(make_mesh(MeshConfig())):
        args = inputs(options.batch, options.width)
        functions = {name: compiled(kind, name, options.tile) for name in IMPLEMENTATIONS}
        for function in functions.values():
            jax.block_until_ready(function(*args))
        seconds: dict[str, list[float]] = {name: [] for name in functions}
        for _ in range(options.repeats):
            for name, function in functions.items():
                start = time.perf_counter()
                jax.block_until_ready(function(*args))
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compiled(kind: str, implementation: str, tile: int | None) -> Callable[..., Any]:
    def loss(*args: Any) -> Any:
        options: Any = {"kind": kind, "implementation": implementation, "tile": tile}
        return contrastive(*args, **options).value

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))


def inputs(num_rows: int, width: int) -> tuple[Any, ...]:
    """Unit embeddings in the rows of the mesh, a scale of 10 and a bias of -10."""
    rng = np.random.default_rng(0)
    sides = rng.normal(size=(2, num_rows, width)).astype(np.float32)
    sides /= np.linalg.norm(sides, axis=2, keepdims=True)
    image, text = rules.over_rows((jnp.asarray(sides[0]), jnp.asarray(sides[1])), rules.BATCH_AXES)
    return image, text, jnp.log(jnp.float32(10)), jnp.float32(-10)


if __name__ == "__main__":
    main()
