"""Times how long a save of a checkpoint holds up training, beside a bare copy of the same arrays off the devices.

    python benchmarks/save_time.py [--devices 8 --arrays 64 --mib 512 --repeats 7 --folder DIR] [--json FILE]

A save is over for the training loop when the next step may write over the arrays; the rest of it, which the last row
shows, goes on in the background. The parts take turns; the ratios are of medians. The folder should lie on the disk of
interest.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.checksums import describe
from mmjax.training.retention import CheckpointConfig

PARTS = ("copy", "checksums", "save", "background")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices)
    medians = measure(options)
    print(f"{options.arrays} arrays, {options.mib} MiB, {options.devices} devices")
    print("| part | median s | of the copy |\n| --- | --- | --- |")
    rows = [{"part": part, "secs": secs, "ratio": secs / medians["copy"]} for part, secs in medians.items()]
    for row in rows:
        print(f"| {row['part']} | {row['secs']:.3f} | {row['ratio']:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("devices", 8), ("arrays", 64), ("mib", 512), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="where to save; by default a temporary folder")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each part, after one round that compiles."""
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    with jax.set_mesh(make_mesh(MeshConfig())):
        checkpoints = Checkpoints(folder, CheckpointConfig(keep_last=1))
        rounds = [timed(checkpoints, step, arrays(options, step)) for step in range(options.repeats + 1)][1:]
        checkpoints.close()
    shutil.rmtree(folder)
    return {part: statistics.median(secs[part] for secs in rounds) for part in PARTS}


def arrays(options: argparse.Namespace, step: int) -> dict[str, jax.Array]:
    """New ones, as a step makes them, each split over all devices."""
    rows, width = 8 * options.devices, options.mib * 2**20 // options.arrays // (8 * options.devices) // 4
    make = jax.jit(lambda x: x + step, out_shardings=jax.NamedSharding(jax.sharding.get_mesh(), jax.P("data")))
    return {str(index): jax.block_until_ready(make(jnp.zeros((rows, width)))) for index in range(options.arrays)}


def timed(checkpoints: Checkpoints, step: int, state: Any) -> dict[str, float]:
    return {
        "copy": seconds(lambda: copy(state)),
        "checksums": seconds(lambda: describe(state)),
        "save": seconds(lambda: checkpoints.save(step, state, {})),
        "background": seconds(checkpoints.wait),
    }


def copy(state: dict[str, jax.Array]) -> list[np.ndarray]:
    shards = [shard for x in state.values() for shard in x.addressable_shards if shard.replica_id == 0]
    return [np.array(shard.data) for shard in shards]


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
