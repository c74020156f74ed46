"""Plans for this CPU beside what its steps take: time of a step, and memory.

    python benchmarks/plan_cpu.py [--case NAME ...] [--steps 5] [--json FILE]

Every case runs in a process of its own: plan for cpu:1, then steps on random batches. Memory is what the allocator of
glibc has given out more at the fullest moment of a step than before it, with the state and a batch there, beside what
the plan adds to these.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmjax.plan.environment import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import jax
import numpy as np

from mmjax import assembly
from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.experiment import Experiment
from mmjax.models.sizes import clip, siglip
from mmjax.models.vit import ViTConfig
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.plan import make_plan
from mmjax.plan.topology import open_topology

CASES = {"tiny": ("Ti/16-64", 64), "small": ("S/16-112", 32), "base": ("B/16-112", 16), "clip B/32": ("B/32", 16)}
"""Model and batch."""
SETTLING_SECS = 0.5


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--alone", choices=CASES, help="measure this case in this process, and print its figures")
    options = parser.parse_args(arguments)
    if options.alone:
        print(json.dumps(measured(options.alone, options.steps)))
        return
    rows = []
    print("| case | planned ms | measured ms | within | planned MiB | measured MiB | ratio |")
    print("|" + " --- |" * 7)
    for name in options.case or CASES:
        rows.append(in_process(name, options.steps))
        print(line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def in_process(name: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, f"--alone={name}", f"--steps={steps}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def line(row: dict[str, Any]) -> str:
    low, high, secs = (1e3 * row[key] for key in ("roofline_secs", "cycles_secs", "step_secs"))
    within = "yes" if low <= secs <= high else "no"
    planned, grown = row["planned_bytes"] / 2**20, row["grown_bytes"] / 2**20
    cells = [row["case"], f"{low:,.0f} to {high:,.0f}", f"{secs:,.0f}", within, f"{planned:,.0f}", f"{grown:,.0f}"]
    return "| " + " | ".join([*cells, f"{planned / grown:.2f}"]) + " |"


def experiment(name: str) -> Experiment:
    size, batch_size = CASES[name]
    model = clip(size) if name.startswith("clip") else siglip(size)
    image = model.image
    assert isinstance(image, ViTConfig)
    model = replace(model, image=replace(image, unroll=-1), text=replace(model.text, unroll=-1))
    preprocess = PreprocessConfig(image_size=image.image_size)
    data = DataConfig(batch_size=batch_size, text_len=model.text_len, preprocess=preprocess)
    return Experiment(model, data, mesh=MeshConfig(1, 1, 1))


def measured(name: str, steps: int) -> dict[str, Any]:
    """The plan of a case, and its steps."""
    given = experiment(name)
    found = make_plan(given, open_topology("cpu:1"))
    mesh = make_mesh(given.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        program = assembly.program(given, mesh)
        step = program.step.lower(program.abstract_state, program.batch_spec).compile()
        state = program.init()
        batch = {key: drawn(leaf) for key, leaf in program.batch_spec.items()}
        with Fullest() as fullest:
            state, _ = step(state, batch)
            jax.block_until_ready(state)
        secs = []
        for _ in range(steps):
            start = time.perf_counter()
            state, _ = step(state, batch)
            jax.block_until_ready(state)
            secs.append(time.perf_counter() - start)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((state, batch)))
    ends = {key: found["time"][key] for key in ("roofline_secs", "hybrid_secs", "cycles_secs")}
    planned = {"planned_bytes": found["memory"]["peak_bytes"] - held, "grown_bytes": fullest.grown_bytes}
    return {"case": name, "step_secs": statistics.median(secs), **ends, **planned}


def drawn(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Random numbers of that shape and type."""
    rng = np.random.default_rng(0)
    if leaf.dtype == np.float32:
        return jax.device_put(np.ones(leaf.shape, np.float32), leaf.sharding)
    return jax.device_put(rng.integers(0, 2, leaf.shape).astype(leaf.dtype), leaf.sharding)


class Fullest:
    """How much more the allocator has given out within a block than before it."""

    def __enter__(self) -> "Fullest":
        self._ended = threading.Event()
        self._before = self._most = settled_bytes()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def _look(self) -> None:
        while not self._ended.wait(0.002):
            self._most = max(self._most, allocated_bytes())

    def __exit__(self, *failure: object) -> None:
        self._ended.set()
        self._watch.join()

    @property
    def grown_bytes(self) -> int:
        return self._most - self._before


class Allocations(ctypes.Structure):
    """What mallinfo2 of glibc gives."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


LIBRARY = ctypes.CDLL("libc.so.6")
LIBRARY.mallinfo2.restype = Allocations


def allocated_bytes() -> int:
    """Given out by the allocator: of its heaps, and as maps of their own."""
    found = LIBRARY.mallinfo2()
    return int(found.uordblks + found.hblkhd)


def settled_bytes() -> int:
    """`allocated_bytes` once it no longer changes: the runtime gives back a little later than results are there."""
    before, now = -1, allocated_bytes()
    while now != before:
        time.sleep(SETTLING_SECS)
        before, now = now, allocated_bytes()
    return now


if __name__ == "__main__":
    main()
