"""What an export asks of one host's memory, beside the model: `python benchmarks/export_memory.py [--model B/32]`.

A checkpoint of a CLIP with random weights is written, and exported by a process of its own, in files of two sizes. Its
memory is the growth of the process from its start, with everything imported, to its peak, without the proof, which
loads the model twice.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from rich.console import Console
from rich.table import Table

from mmjax.data.preprocess import PreprocessConfig
from mmjax.data.tokenizer import Tokenizer
from mmjax.interop.dual.exports import write_hugging_face
from mmjax.interop.export_folder import Trained
from mmjax.interop.formats import Spec
from mmjax.interop.shapes import parameter_shapes
from mmjax.models.sizes import clip
from mmjax.optim import paths
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.state import TrainState
from mmjax.versions import versions

MIB = 2**20
FACTS: dict[str, Any] = {
    "mmjax_version": "benchmark",
    "step": 0,
    "ema": False,
    "fingerprint": {},
    "data_licence": "none",
    "evaluation": {},
    "experiment": {
        "data": {
            "source": "none",
            "split": "none",
            "text_len": 77,
            "preprocess": {"image_size": 224, "resize": "crop", "interpolation": "bicubic"},
        }
    },
}


def main() -> None:
    options = parsed()
    if options.exported is not None:
        print(json.dumps(measured(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoints"
        num_bytes, largest = write_checkpoint(options.model, checkpoint)
        table = Table("files of at most", "model", "largest array", "peak growth", "of the model", title=options.model)
        for max_mib in (256, 5000):
            growth = exported(options.model, checkpoint, max_mib)
            row = (f"{max_mib} MiB", num_bytes, largest, growth)
            table.add_row(row[0], *(f"{value / MIB:.0f} MiB" for value in row[1:]), f"{growth / num_bytes:.2f} x")
    Console().print(table)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="B/32", help="a CLIP of models/sizes.py (default: B/32)")
    parser.add_argument("--exported", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--max-mib", type=int, default=5000, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_checkpoint(name: str, directory: Path) -> tuple[int, int]:
    """Saves random weights as a run does; the bytes of all, and of the largest array."""
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(clip(name), "both")
    flat = {path: jnp.asarray(rng.standard_normal(shape, np.float32)) for path, shape in shapes.items()}
    params = unflatten_dict(flat, sep="/")
    checkpoints = Checkpoints(directory)
    step = jnp.zeros((), jnp.int32)
    state = TrainState(step, params, {}, {}, {}, step)
    checkpoints.save(0, state, {"versions": versions()})
    checkpoints.close()
    sizes = [leaf.nbytes for leaf in paths.leaves(params).values()]
    return sum(sizes), max(sizes)


def exported(name: str, directory: Path, max_mib: int) -> int:
    """The growth in bytes of a process that exports the checkpoint."""
    command = [sys.executable, __file__, f"--model={name}", f"--exported={directory}", f"--max-mib={max_mib}"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(result.stdout.splitlines()[-1]))


def measured(options: argparse.Namespace) -> int:
    """The same, in that process."""
    weights, _ = Checkpoints(options.exported, read_only=True).weights()
    trained = Trained(Spec(clip(options.model), PreprocessConfig(224, "crop")), Tokenizer.load("emoji"), weights, FACTS)
    weights["log_scale"]  # What is imported and compiled once is no part of the export's memory.
    before = peak_bytes(reset=True)
    with tempfile.TemporaryDirectory() as folder:
        write_hugging_face(Path(folder), trained, "both", "float32", options.max_mib * MIB)
    return peak_bytes() - before


def peak_bytes(*, reset: bool = False) -> int:
    """The most memory that this process ever had, as Linux counts it, from the last `reset` on."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
