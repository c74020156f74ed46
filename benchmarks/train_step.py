"""Times a full training step (forward, loss, backward, AdamW) beside this machine's own matrix product.

    python benchmarks/train_step.py --model clip_vit_b32 --batch 32 --dtype float32 [--json FILE]

The ratio says how much of the machine the step uses: model FLOPs (3 x forward) over seconds, over the rate of a 4096^3
product measured in the same process, before and after the steps.
"""

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.losses.choice import Kind
from mmjax.models import sizes
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from mmjax.objectives.contrastive import ContrastiveConfig
from mmjax.optim.optimizer import OptimConfig
from mmjax.parallel.host_memory import keep_freed_memory
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.rules import batch_sharding
from mmjax.training.cost import step_cost
from mmjax.training.program import Program, batch_shapes, build_program
from mmjax.training.state import TrainState
from mmjax.training.step import Metrics, TrainConfig
from mmjax.types import Batch, BatchSpec

MATMUL_SIZE = 4096
TINY_SIZE = sizes.Size(width=64, depth=2, mlp_dim=128, num_heads=4)


def tiny() -> DualEncoderConfig:
    """A model whose step takes so little that the host's share of it shows."""
    image = ViTConfig(**vars(TINY_SIZE), image_size=32, patch_size=16)
    return DualEncoderConfig(image, TextConfig(**vars(TINY_SIZE), vocab_size=512, context_len=8), TINY_SIZE.width)


MODELS: dict[str, Callable[[], DualEncoderConfig]] = {
    "clip_vit_b32": lambda: sizes.clip("B/32"),
    "clip_vit_b16": lambda: sizes.clip("B/16"),
    "clip_vit_l14": lambda: sizes.clip("L/14"),
    "siglip_vit_b16": lambda: sizes.siglip("B/16-224"),
    "tiny": tiny,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    keep_freed_memory()
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        program, compile_secs = compiled(configured(options), options.batch, mesh)
        result = measure(program, random_batch(program.batch_spec, mesh), options.steps)
        result |= {"compile_secs": compile_secs, "host_overhead_secs": host_overhead(mesh)}
        result |= {"exposed_overhead_secs": exposed_overhead(mesh)}
    report(result, options)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="clip_vit_b32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="compute type")
    parser.add_argument("--remat", choices=("none", "full", "dots"), default="none")
    parser.add_argument("--unroll", type=int, default=-1, help="layers in a step of the scan; -1 is all")
    parser.add_argument("--steps", type=int, default=5, help="timed steps, of which the median is quoted")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args(arguments)


def configured(options: argparse.Namespace) -> DualEncoderConfig:
    model = MODELS[options.model]()
    choices = {"compute_dtype": options.dtype, "remat": options.remat, "unroll": options.unroll}
    return replace(model, image=replace(model.image, **choices), text=replace(model.text, **choices))


def compiled(model: DualEncoderConfig, batch_size: int, mesh: jax.sharding.Mesh) -> tuple[Program, float]:
    """The program of the model with AdamW, its step compiled ahead of time, and the seconds that took."""
    program = built(model, batch_size, mesh)
    start = time.perf_counter()
    step: Any = program.step.lower(program.abstract_state, program.batch_spec).compile()
    return program._replace(step=step), time.perf_counter() - start


def built(model: DualEncoderConfig, batch_size: int, mesh: jax.sharding.Mesh) -> Program:
    """The program of the model with AdamW."""
    kind: Kind = "softmax" if model.logit_bias is None else "sigmoid"
    return build_program(
        lambda key: DualEncoder(model, key),
        ContrastiveConfig(kind).build(),
        OptimConfig(weight_decay=0.1),
        TrainConfig(),
        mesh,
        batch_shapes(
            DataConfig(
                batch_size=batch_size,
                text_len=model.text.context_len,
                preprocess=PreprocessConfig(model.image.image_size, image_width=model.image.image_width),
            ),
            mesh,
        ),
    )


def random_batch(spec: BatchSpec, mesh: jax.sharding.Mesh) -> Batch:
    rng = np.random.default_rng(0)
    shapes = {name: leaf.shape for name, leaf in spec.items()}
    host: dict[str, np.ndarray] = {
        "image": rng.integers(0, 256, shapes["image"]).astype(np.uint8),
        "text_ids": rng.integers(1, 500, shapes["text_ids"]).astype(np.int32),
        "text_mask": np.ones(shapes["text_mask"], bool),
        "ids": np.arange(shapes["ids"][0], dtype=np.int32),
        "weights": np.ones(shapes["weights"], np.float32),
    }
    return jax.device_put(host, batch_sharding(mesh))


def measure(program: Program, batch: Batch, num_steps: int) -> dict[str, Any]:
    """Median step seconds and the rate of the matrix product, taken around the steps."""
    state, _ = program.step(program.init(), batch)
    rates, seconds = [matmul_flops_per_sec()], []
    for _ in range(num_steps):
        start = time.perf_counter()
        state, metrics = program.step(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
        rates.append(matmul_flops_per_sec())
    cost, step_secs, rate = step_cost(program, peak_override=1.0), statistics.median(seconds), statistics.median(rates)
    return {
        "step_secs": step_secs,
        "model_flops": cost.step_flops,
        "tower_flops_per_example": dict(cost.tower_flops),
        "matmul_flops_per_sec": rate,
        "model_flops_per_sec": cost.step_flops / step_secs,
        "ratio_to_matmul": cost.step_flops / step_secs / rate,
    }


def matmul_flops_per_sec() -> float:
    """The rate of one float32 product of two 4096 x 4096 matrices."""
    square = jnp.full((MATMUL_SIZE, MATMUL_SIZE), 0.5, jnp.float32)
    start = time.perf_counter()
    jax.block_until_ready(_product(square, square))
    return 2 * MATMUL_SIZE**3 / (time.perf_counter() - start)


@jax.jit
def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return a @ b


def host_overhead(mesh: jax.sharding.Mesh, num_launches: int = 300) -> float:
    """Median seconds that the host takes to launch the tiny model's step, its computation left out.

    On CPU a launch may run so small a step before it returns, so a stand-in is launched: a program of the same
    arguments, results and donated state, which hands the state through and counts the step.
    """
    program = built(tiny(), 8, mesh)
    batch, state = random_batch(program.batch_spec, mesh), program.init()
    _, metrics = jax.eval_shape(program.step, program.abstract_state, program.batch_spec)

    def stand_in(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        seen = batch["weights"][0]
        return state._replace(step=state.step + 1), {name: seen.astype(leaf.dtype) for name, leaf in metrics.items()}

    launch = jax.jit(stand_in, donate_argnums=0, keep_unused=True)
    seconds = []
    for _ in range(num_launches):
        start = time.perf_counter()
        state, _ = launch(state, batch)
        seconds.append(time.perf_counter() - start)
        jax.block_until_ready(state)
    return statistics.median(seconds)


def exposed_overhead(mesh: jax.sharding.Mesh, num_steps: int = 50, num_rounds: int = 9) -> float:
    """Median of: seconds a step of the tiny model takes when launched by the host, less those it takes in a loop that
    is one program. What the host's launches add where they do not hide behind the computation; about 0 is ideal."""
    program = built(tiny(), 8, mesh)
    batch, launched, looped = random_batch(program.batch_spec, mesh), program.init(), program.init()

    @functools.partial(jax.jit, donate_argnums=0)
    def loop(state: TrainState, batch: Batch) -> TrainState:
        return jax.lax.fori_loop(0, num_steps, lambda _, state: program.step(state, batch)[0], state)

    differences = []
    for _ in range(num_rounds + 1):
        start = time.perf_counter()
        for _ in range(num_steps):
            launched, _ = program.step(launched, batch)
        jax.block_until_ready(launched)
        middle = time.perf_counter()
        looped = jax.block_until_ready(loop(looped, batch))
        differences.append((middle - start) - (time.perf_counter() - middle))
    return statistics.median(differences[1:]) / num_steps  # The first round compiles.


def report(result: dict[str, Any], options: argparse.Namespace) -> None:
    device = jax.devices()[0]
    result |= {"model": options.model, "batch": options.batch, "dtype": options.dtype, "device": device.device_kind}
    result |= {"devices": len(jax.devices()), "cores": os.cpu_count()}
    for name, value in result.items():
        print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
