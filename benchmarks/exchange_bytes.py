"""Bytes that a device sends for hard negatives: rows that are asked for, beside an array that is indexed.

    python benchmarks/exchange_bytes.py [--rows 1024 --mesh 8,1,1 ... --topology v5e:2x4|cpu:8] [--json FILE]

For each row of the batch another row's text and image, behind their towers, are taken, and the gradient goes back: by
`parallel.exchange.take_rows`, and by indexing, of which XLA makes collectives by itself. Programs are compiled for a
real TPU topology without a TPU (`pip install -r requirements-plan.txt`), or for virtual CPU devices, and what they send
is read from them, a ring being assumed. Counted is the one round that rows drawn at random take most often; each
further one costs the same again.
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

from mmjax.parallel import rules
from mmjax.parallel.exchange import take_rows
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.hlo import Instruction
from mmjax.plan.program import Program
from mmjax.plan.topology import open_topology
from mmjax.types import Array

MESHES = ("8,1,1", "2,2,2")


class OneRound(Program):
    """A program in which loops count once: how many rounds there are is known when it runs."""

    def trip_count(self, loop: Instruction) -> int:
        return 1


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    rows = []
    print("| mesh | by | sent MB | collectives |\n| --- | --- | --- | --- |")
    for sizes in options.mesh or MESHES:
        for name, take in (("take_rows", take_rows), ("indexing", index_rows)):
            program = compiled(take, sizes, options)
            found = {"mesh": sizes, "by": name, "sent_bytes": program.sent_bytes}
            rows.append(found | {"collectives": program.collective_counts})
            counts = ", ".join(f"{count} {operation}" for operation, count in program.collective_counts.items())
            print(f"| ({sizes}) | {name} | {program.sent_bytes / 1e6:.0f} | {counts} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 1024), ("text-len", 32), ("image-len", 197), ("width", 768)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--mesh", action="append", help="sizes of data, fsdp and tensor; may be repeated")
    parser.add_argument("--topology", default="v5e:2x4", help="v5e:2x4, ... or cpu:NUMBER")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args(arguments)


def index_rows(tree: Any, indices: Array) -> Any:
    return jax.tree.map(lambda x: x.at[indices].get(out_sharding=rules.spec("b" + "o" * (x.ndim - 1))), tree)


def compiled(take: Callable[[Any, Array], Any], sizes: str, options: argparse.Namespace) -> OneRound:
    """The program of the rows that are taken and of the gradient that goes back."""
    data, fsdp, tensor = map(int, sizes.split(","))
    mesh = make_mesh(MeshConfig(data, fsdp, tensor), open_topology(options.topology).devices)
    with jax.set_mesh(mesh):

        def spec(*shape: int, dtype: str) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((options.rows, *shape), dtype, sharding=rules.batch_sharding(mesh))

        tokens = {
            name: spec(length, options.width, dtype=options.dtype)
            for name, length in (("text", options.text_len), ("image", options.image_len))
        }
        mask, indices = spec(options.text_len, dtype="bool"), spec(dtype="int32")
        function = jax.jit(lambda *args: taken_and_gradients(take, *args))
        text = function.lower(tokens, mask, indices, indices, tokens).compile().as_text()
    return OneRound(text or "")


def taken_and_gradients(
    take: Callable[[Any, Array], Any],
    tokens: dict[str, Array],
    text_mask: Array,
    text_for_image: Array,
    image_for_text: Array,
    cotangents: dict[str, Array],
) -> Any:
    """What a step takes: a text with its mask for each image, and an image for each text."""

    def taken(tokens: dict[str, Array]) -> Any:
        text = take({"tokens": tokens["text"], "mask": text_mask}, text_for_image)
        image = take({"tokens": tokens["image"]}, image_for_text)
        return {"text": text["tokens"], "image": image["tokens"]}, text["mask"]

    found, pull, mask = jax.vjp(taken, tokens, has_aux=True)
    return found, mask, pull(cotangents)[0]


if __name__ == "__main__":
    main()
