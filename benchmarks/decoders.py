"""Times what decodes a photo and cuts a random part of it, for each format: why `data.augment.decoder` does as it does.

    python -m benchmarks.decoders [--scale 1 --num-photos 64 --repeats 7] [--json FILE]

Photos are those of `benchmarks/data.py`, 500 x 375 enlarged by `--scale`, as JPEG (quality 90), lossy WebP (quality 80)
and PNG, in memory.
Every side makes the same random parts, 8 to 100% of the area, 224 x 224 of them, in one thread. Sides take turns;
quoted is the median of the turns in milliseconds a photo. Pixels are compared with those that the exact decoder and
Pillow's bicubic filter give: the mean difference, in levels of 255.
"""

import argparse
import functools
import io
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.data import AREA, SIDE, SIZE, photo
from mmjax.data import augment, photo_headers, photos
from mmjax.data.augment import AugmentConfig
from mmjax.data.photos import Box

FORMATS: Mapping[str, Mapping[str, object]] = {
    "jpeg": {"quality": 90},
    "webp": {"quality": 80, "method": 4},
    "png": {},
}
Cut = Callable[[bytes, Box], np.ndarray]


def pillow(encoded: bytes, box: Box) -> np.ndarray:
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))


def pillow_draft(encoded: bytes, box: Box) -> np.ndarray:
    """JPEGs at the least scale that has all pixels that are wanted, as `Image.draft` gives them."""
    image = Image.open(io.BytesIO(encoded))
    width, share = image.width, min((box[2] - box[0]) / SIDE, (box[3] - box[1]) / SIDE)
    image.draft("RGB", (max(1, int(image.width / share)), max(1, int(image.height / share))))
    scale = image.width / width
    part = (box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale)
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=part, reducing_gap=2.0))


def opencv(encoded: bytes, box: Box) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return scaled(pixels, box)


def simplejpeg_whole(encoded: bytes, box: Box) -> np.ndarray:
    return scaled(simplejpeg.decode_jpeg(encoded), box)


def turbo(encoded: bytes, box: Box) -> np.ndarray:
    """What `data.augment.decoder = "turbo"` does."""
    found, out = photo_headers.opened(encoded), np.empty((SIDE, SIDE, 3), np.uint8)
    assert found is not None
    photos.cut(found, box, out)
    return out


def scaled(pixels: np.ndarray, box: Box) -> np.ndarray:
    left, top, right, bottom = (round(edge) for edge in box)
    return cv2.resize(pixels[top:bottom, left:right], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


SIDES: Mapping[str, tuple[Cut, tuple[str, ...]]] = {
    "Pillow, bicubic": (pillow, ("jpeg", "webp", "png")),
    "Pillow, draft": (pillow_draft, ("jpeg",)),
    "OpenCV, bilinear": (opencv, ("jpeg", "webp", "png")),
    "simplejpeg, exact, bilinear": (simplejpeg_whole, ("jpeg",)),
    "turbo": (turbo, ("jpeg", "webp", "png")),
}


@functools.cache
def encoded_photos(name: str, number: int, scale: int) -> list[bytes]:
    images = [Image.open(io.BytesIO(photo(seed))) for seed in range(number)]
    size = (SIZE[0] * scale, SIZE[1] * scale)
    return [_encoded(image.resize(size, Image.Resampling.BICUBIC), name) for image in images]


def _encoded(image: Image.Image, name: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **FORMATS[name])
    return buffer.getvalue()


def boxes(number: int, scale: int) -> list[Box]:
    config, size = AugmentConfig(crop_area=AREA), (SIZE[0] * scale, SIZE[1] * scale)
    return [augment._random_box(*size, config, np.random.default_rng(seed)) for seed in range(number)]


def milliseconds(cut: Cut, images: list[bytes], parts: list[Box]) -> float:
    start = time.perf_counter()
    for encoded, box in zip(images, parts, strict=True):
        cut(encoded, box)
    return 1e3 * (time.perf_counter() - start) / len(images)


def difference(cut: Cut, images: list[bytes], parts: list[Box]) -> float:
    """Mean of the absolute differences from `pillow`, in levels of 255."""
    apart = [
        abs(cut(encoded, box).astype(float) - pillow(encoded, box)).mean()
        for encoded, box in zip(images, parts, strict=True)
    ]
    return float(np.mean(apart))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--num-photos", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    parts = boxes(options.num_photos, options.scale)
    tasks = [(name, side) for side, (_, names) in SIDES.items() for name in names]
    times: dict[tuple[str, str], list[float]] = {task: [] for task in tasks}
    for _ in range(options.repeats):
        for name, side in tasks:
            images = encoded_photos(name, options.num_photos, options.scale)
            times[name, side].append(milliseconds(SIDES[side][0], images, parts))
    rows: list[dict[str, Any]] = [
        {
            "format": name,
            "decoder": side,
            "milliseconds": statistics.median(times[name, side]),
            "difference": difference(SIDES[side][0], encoded_photos(name, options.num_photos, options.scale), parts),
        }
        for name, side in sorted(tasks)
    ]
    table = Table("format", "decoder", "ms a photo", "levels from Pillow's")
    for row in rows:
        table.add_row(row["format"], row["decoder"], f"{row['milliseconds']:.2f}", f"{row['difference']:.2f}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
