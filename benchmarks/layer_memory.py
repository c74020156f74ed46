"""What layers save that keep little for the gradient, by the compiler's own account: memory and cycles.

    python benchmarks/layer_memory.py [--batch 32 --length 197 --width 768 --heads 12 --depth 12]
                                      [--topology v5e:2x2 --json FILE]

Value and gradient of a scan over Transformer layers on one chip, without rematerialisation, are compiled for a real TPU
topology without a TPU (`pip install -r requirements-plan.txt`): of `nn.block`, whose norms, softmax and activations
keep one array each, and of the same formulas as JAX differentiates them. Cycles are the compiler's estimate, and too
high for vector operations.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmjax.plan.environment import ENVIRONMENT

# Before jax is imported.
os.environ.update(ENVIRONMENT)

import jax
import jax.numpy as jnp
from flax import nnx

from mmjax.nn.block import Block, BlockConfig
from mmjax.nn.mlp import Activation
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.parallel.rules import batch_sharding, replicated
from mmjax.plan.program import Program
from mmjax.plan.topology import open_topology
from mmjax.types import Array

Layer = Callable[[Any, Array], Array]
PLAIN: dict[Activation, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    rows = []
    print("| activation | dtype | by | peak MiB | 10^6 cycles |\n| --- | --- | --- | --- | --- |")
    for activation in PLAIN:
        forms, params = layers(BlockConfig(options.width, options.heads, 4 * options.width, activation))
        for dtype in ("bfloat16", "float32"):
            for by, layer in forms.items():
                peak, cycles = costs(layer, params, dtype, options)
                facts = {"activation": activation, "dtype": dtype, "by": by}
                rows.append(facts | {"peak_bytes": peak, "estimated_cycles": cycles})
                cells = (*facts.values(), f"{peak / 2**20:.0f}", f"{cycles / 1e6:.0f}")
                print("| " + " | ".join(cells) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 32), ("length", 197), ("width", 768), ("heads", 12), ("depth", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args(arguments)


def layers(config: BlockConfig) -> tuple[dict[str, Layer], Any]:
    """The same layer in both forms, by whom it is differentiated, and its abstract parameters."""
    graph, params = nnx.split(nnx.eval_shape(lambda: Block(config, jax.random.key(0))))

    def ours(params: Any, x: Array) -> Array:
        y: Array = nnx.merge(graph, params)(x)
        return y

    return {"JAX": plain_layer(config), "mmjax": ours}, nnx.to_pure_dict(params)


def plain_layer(config: BlockConfig) -> Layer:
    """`Block` with its norms first, and nothing said of what is kept for the gradient."""

    def layer(params: Any, x: Array) -> Array:
        x = x + attention(params["attention"], config.num_heads, norm(params["attention_norm"], x))
        inner = affine(params["mlp"]["up"], norm(params["mlp_norm"], x))
        return x + affine(params["mlp"]["down"], PLAIN[config.activation](inner))

    return layer


def norm(params: Any, x: Array) -> Array:
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + 1e-6)
    return (centred * inverse * params["scale"] + params["bias"]).astype(x.dtype)


def attention(params: Any, num_heads: int, x: Array) -> Array:
    projected = (affine(params[name], x) for name in ("query", "key", "value"))
    queries, keys, values = (side.reshape(*x.shape[:2], num_heads, -1) for side in projected)
    scores = jnp.einsum("btnh,bsnh->bnts", queries, keys).astype(jnp.float32) / queries.shape[-1] ** 0.5
    shares = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
    return affine(params["out"], jnp.einsum("bnts,bsnh->btnh", shares, values).reshape(*x.shape[:2], -1))


def affine(params: Any, x: Array) -> Array:
    return x @ params["kernel"].astype(x.dtype) + params["bias"].astype(x.dtype)


def costs(layer: Layer, params: Any, dtype: str, options: argparse.Namespace) -> tuple[int, int]:
    """Bytes of memory at the peak, and cycles."""

    def loss(params: Any, x: Array) -> Array:
        y, _ = jax.lax.scan(lambda x, params: (layer(params, x), None), x, params)
        return jnp.sum(jnp.square(y.astype(jnp.float32)))

    mesh = make_mesh(MeshConfig(1, 1, 1), open_topology(options.topology).devices[:1])
    with jax.set_mesh(mesh):
        stacked = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((options.depth, *leaf.shape), leaf.dtype, sharding=replicated(mesh)),
            params,
        )
        shape = (options.batch, options.length, options.width)
        x = jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        compiled = jax.jit(jax.value_and_grad(loss)).lower(stacked, x).compile()
    memory: Any = compiled.memory_analysis()
    return memory.peak_memory_in_bytes, Program(compiled.as_text() or "").estimated_cycles or 0


if __name__ == "__main__":
    main()
