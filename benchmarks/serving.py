"""Throughput and latency of the service beside the same model in a plain PyTorch loop.

    python benchmarks/serving.py [--size small|b16 | --model DIR] [--quantize int8] [--json FILE]

The loop and the service take turns on the same machine, and the clients, in this process, share its cores with the
service. Both start from the same JPEG files and end with the embeddings as lists of floats: the loop decodes and
preprocesses image by image, then runs the model in batches; the service does that and HTTP, JSON and base64 too.
Every request holds one image. Figures are medians over the rounds.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from mmjax.serving.images import open_image
from mmjax.serving.limits import Limits
from mmjax.serving.model import Embedder, ModelConfig, load

TOKENIZER = Path(__file__).parent.parent / "mmjax" / "data" / "emoji" / "tokenizer"
SIZES = {
    "small": {"width": 192, "depth": 6, "heads": 3, "image_size": 64, "patch_size": 8},
    "b16": {"width": 768, "depth": 12, "heads": 12, "image_size": 224, "patch_size": 16},
}
"""b16: SigLIP B/16 (arXiv:2303.15343); small: as the quickstart's."""
LOOP_BATCHES = (1, 8, 32)
NUM_PICTURES = 64


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    with tempfile.TemporaryDirectory() as place:
        folder = options.model or write_model(Path(place), options.size)
        embedder = load(ModelConfig(folder, quantize=options.quantize))
        pictures = make_pictures(options.picture_side)
        with serving(folder, options.quantize) as port:
            warm_up(embedder, pictures, port)
            rows = measured(options, embedder, pictures, port)
    print(f"{options.model or options.size}, {torch.get_num_threads()} threads, JPEG of {options.picture_side} pixels")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="small", help="of a model of random weights")
    parser.add_argument("--model", type=Path, help="an exported folder instead")
    parser.add_argument("--quantize", choices=("int8",))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--images", type=int, default=256, help="of one measurement, at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture-side", type=int, default=256)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args(arguments)


def write_model(folder: Path, size: str) -> Path:
    """A SigLIP of random weights with the embedded tokenizer."""
    shape = SIZES[size]
    tower = {
        "hidden_size": shape["width"],
        "intermediate_size": 4 * shape["width"],
        "num_hidden_layers": shape["depth"],
        "num_attention_heads": shape["heads"],
    }
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, "projection_size": shape["width"]}
    config = transformers.SiglipConfig(
        text_config={**tower, **special, "vocab_size": 8192, "max_position_embeddings": 64},
        vision_config={**tower, "image_size": shape["image_size"], "patch_size": shape["patch_size"]},
    )
    transformers.SiglipModel(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(TOKENIZER, model_max_length=64).save_pretrained(folder)
    sides = {"height": shape["image_size"], "width": shape["image_size"]}
    processor = {"image_processor_type": "SiglipImageProcessor", "size": sides}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def make_pictures(side: int) -> list[bytes]:
    """JPEG files of smooth noise, about as large as photographs of that size."""
    rng, pictures = np.random.default_rng(0), []
    for _ in range(NUM_PICTURES):
        small = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        pictures.append(file.getvalue())
    return pictures


@contextlib.contextmanager
def serving(folder: Path, quantize: str | None) -> Iterator[int]:
    """The port of a service in a process of its own."""
    command = [sys.executable, "-m", "mmjax.serving", "--model", str(folder), "--port", "0", "--answer-secs", "600"]
    command += ["--quantize", quantize] if quantize else []
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.terminate()


def warm_up(embedder: Embedder, pictures: Sequence[bytes], port: int) -> None:
    loop(embedder, pictures[:8], 8)
    asyncio.run(ask(port, pictures, 8, 1))


def measured(
    options: argparse.Namespace, embedder: Embedder, pictures: Sequence[bytes], port: int
) -> list[dict[str, Any]]:
    """One row for each way, medians over rounds in which they take turns."""
    rounds: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for batch in LOOP_BATCHES:
            files = [pictures[number % len(pictures)] for number in range(options.images)]
            rounds.setdefault(("loop, batch", batch), []).append({"images_per_sec": loop(embedder, files, batch)})
        for clients in options.clients:
            # A single client needs no more than a part of them to show its latency.
            requests = max(2, options.images // (clients if clients > 1 else 4))
            rounds.setdefault(("service, clients", clients), []).append(
                asyncio.run(ask(port, pictures, clients, requests))
            )
    rows: list[dict[str, Any]] = [
        {"what": what, "count": count, **medians(found)} for (what, count), found in rounds.items()
    ]
    best = max(row["images_per_sec"] for row in rows if row["what"].startswith("loop"))
    return [{**row, "of_best_loop": row["images_per_sec"] / best} for row in rows]


def medians(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(values[name] for values in found) for name in found[0]}


def loop(embedder: Embedder, files: Sequence[bytes], batch: int) -> float:
    """Images a second of the plain loop."""
    limits, start = Limits(), time.perf_counter()
    for first in range(0, len(files), batch):
        rows = [embedder.prepare_image(open_image(data, limits)) for data in files[first : first + batch]]
        embedder.encode_images({"pixel_values": torch.cat([row["pixel_values"] for row in rows])}).tolist()
    return len(files) / (time.perf_counter() - start)


async def ask(port: int, pictures: Sequence[bytes], clients: int, requests: int) -> dict[str, float]:
    """Throughput and latency of clients that each send so many requests, one after the other on one connection."""
    messages = [message(data) for data in pictures]
    latencies: list[float] = []
    start = time.perf_counter()
    await asyncio.gather(*(client(port, messages, number, requests, latencies) for number in range(clients)))
    secs = time.perf_counter() - start
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"images_per_sec": clients * requests / secs, "p50_ms": 1000 * float(p50), "p99_ms": 1000 * float(p99)}


def message(data: bytes) -> bytes:
    body = json.dumps({"images": [base64.b64encode(data).decode()]}).encode()
    head = "POST /v1/embed/images HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def client(port: int, messages: Sequence[bytes], number: int, requests: int, latencies: list[float]) -> None:
    """HTTP over a plain connection: a client library would need as much of the processor as the service."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    for request in range(requests):
        start = time.perf_counter()
        writer.write(messages[(number + request) % len(messages)])
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        latencies.append(time.perf_counter() - start)
    writer.close()


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| | images/s | of the best loop | p50 ms | p99 ms |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        latency = [f"{row[name]:.0f}" if name in row else "" for name in ("p50_ms", "p99_ms")]
        cells = [
            f"{row['what']} {row['count']}",
            f"{row['images_per_sec']:.1f}",
            f"{row['of_best_loop']:.0%}",
            *latency,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
