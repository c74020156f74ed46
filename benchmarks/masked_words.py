"""Memory and time of the loss of masked words, beside logits of all words at all positions.

    python benchmarks/masked_words.py [--batch 64 --text-len 64 --width 256 --vocab 32768 --labels 10] [--json FILE]

Value and gradients by features, table and bias, float32, of `losses.tokens.token_cross_entropy` with chunks of several
sizes, and told that no row has more than `labels` labels, which holds. Memory is what the compiled program holds at
most beside arguments and results, by the compiler's own account; the results are the gradients. Forms take turns in
one process, after a look whether values agree; the ratios are of medians.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.losses.tokens import token_cross_entropy
from mmjax.parallel.host_memory import keep_freed_memory
from mmjax.types import Array

CHUNKS = (64, 256, 1024, 4096)
CHUNK_OF_LABELLED = 256
Loss = Callable[[Array, Array, Array, Array], Array]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    jax.config.update("jax_platforms", "cpu")
    keep_freed_memory()
    rows = measure(forms(options.vocab, options.labels), inputs(options), options.repeats)
    print("| form | temporary MiB | median s | of dense |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row['form']} | {row['temp_bytes'] / 2**20:.0f} | {row['secs']:.3f} | {row['ratio']:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = (("batch", 64), ("text-len", 64), ("width", 256), ("vocab", 32_768), ("labels", 10), ("repeats", 7))
    for name, default in sizes:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args(arguments)


def forms(vocab_size: int, num_labels: int) -> dict[str, Loss]:
    """Of features (b, t, d), table (v, d), bias (v,) and labels (b, t), the dense one first."""

    def chunked(features: Array, table: Array, bias: Array, labels: Array, **options: Any) -> Array:
        return token_cross_entropy(features, table, bias, labels, vocab_size=vocab_size, **options).loss.value

    labelled = functools.partial(chunked, chunk=CHUNK_OF_LABELLED, max_labels=num_labels)
    return {
        "dense": dense,
        **{f"chunk {chunk}": functools.partial(chunked, chunk=chunk) for chunk in CHUNKS},
        f"chunk {CHUNK_OF_LABELLED}, max_labels {num_labels}": labelled,
    }


def dense(features: Array, table: Array, bias: Array, labels: Array) -> Array:
    """The mean of -log p over labelled positions, from logits of all words at all positions."""
    log_shares = jax.nn.log_softmax(jnp.einsum("btd,vd->btv", features, table) + bias)
    losses = -jnp.take_along_axis(log_shares, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return jnp.mean(losses, where=labels >= 0)


def inputs(options: argparse.Namespace) -> tuple[Array, ...]:
    """Features and table of unit variance over the root of the width, and labels at random positions."""
    rng = np.random.default_rng(0)
    batch, text_len, width, vocab = options.batch, options.text_len, options.width, options.vocab
    features = rng.normal(size=(batch, text_len, width))
    table = rng.normal(size=(vocab, width)) / np.sqrt(width)
    places = rng.permuted(np.tile(np.arange(text_len), (batch, 1)), axis=1)
    labels = np.where(places < options.labels, rng.integers(0, vocab, (batch, text_len)), -1)
    floats = (jnp.asarray(x, jnp.float32) for x in (features, table, np.zeros(vocab)))
    return *floats, jnp.asarray(labels, jnp.int32)


def measure(losses: dict[str, Loss], args: tuple[Array, ...], repeats: int) -> list[dict[str, Any]]:
    """A row of each form.

    Raises:
        ValueError: a form gives another loss than the dense one.
    """
    programs = {name: compiled(loss, args) for name, loss in losses.items()}
    values = {name: float(program(*args)[0]) for name, program in programs.items()}
    if not np.allclose(list(values.values()), values["dense"], rtol=1e-5):
        raise ValueError(f"losses differ: {values}")
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*args))
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        {
            "form": name,
            "temp_bytes": program.memory_analysis().temp_size_in_bytes,
            "secs": medians[name],
            "ratio": medians[name] / medians["dense"],
        }
        for name, program in programs.items()
    ]


def compiled(loss: Loss, args: tuple[Array, ...]) -> Any:
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*args).compile()


if __name__ == "__main__":
    main()
