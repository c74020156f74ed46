"""What bfloat16 and int8 do to speed and to retrieval, on a trained export.

    python benchmarks/serving_accuracy.py --model DIR --data SPEC [--split NAME] [--limit N] [--json FILE]

Text to image: the query is an image's first caption, and an image with an equal caption is right. Image to text: the
candidates are the different first captions. Cosine: of an embedding with the one in float32. Speed: of the towers
alone, in batches, without preprocessing; the forms take turns, and the figures are medians.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from mmjax.serving.datasets import open_records
from mmjax.serving.model import Embedder, ModelConfig, Rows, load

FORMS: dict[str, dict[str, str]] = {"float32": {}, "bfloat16": {"dtype": "bfloat16"}, "int8": {"quantize": "int8"}}


@dataclass(frozen=True)
class Split:
    """Inputs of both towers, and the row of the text that belongs to each image."""

    images: Rows
    texts: Rows
    text_of_image: np.ndarray


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    models = {form: load(ModelConfig(options.model, **settings)) for form, settings in FORMS.items()}
    split = read(options, models["float32"])
    embeds = {form: embedded(model, split, options.batch) for form, model in models.items()}
    speeds = timed(models, split, options)
    exact = embeds["float32"]
    rows = [{"form": form, **speeds[form], **quality(embeds[form], exact, split)} for form in FORMS]
    data = f"{options.data} {options.split or ''}".strip()
    print(f"{options.model.name} on {data}: {len(split.text_of_image)} images, batch {options.batch}")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", required=True, help="imagefolder:DIR, emoji or tfds:DIR")
    parser.add_argument("--split")
    parser.add_argument("--limit", type=int, help="use the first records only")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def read(options: argparse.Namespace, model: Embedder) -> Split:
    source = open_records(options.data, options.split)
    records = [source[index] for index in range(min(len(source), options.limit or len(source)))]
    captions = [record.captions[0] for record in records]
    different = list(dict.fromkeys(captions))
    images = [record.image for record in records if record.image is not None]
    pixels = [model.prepare_image(picture(image))["pixel_values"] for image in images]
    text_of_image = np.array([different.index(caption) for caption in captions])
    return Split({"pixel_values": torch.cat(pixels)}, model.prepare_texts(different), text_of_image)


def picture(image: bytes | np.ndarray) -> Image.Image:
    opened = Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(io.BytesIO(image))
    return ImageOps.exif_transpose(opened)


def embedded(model: Embedder, split: Split, batch: int) -> tuple[np.ndarray, np.ndarray]:
    return in_batches(model.encode_images, split.images, batch), in_batches(model.encode_texts, split.texts, batch)


def in_batches(encode: Callable[[Rows], np.ndarray], rows: Rows, batch: int) -> np.ndarray:
    count = len(next(iter(rows.values())))
    return np.concatenate(
        [encode({name: x[first : first + batch] for name, x in rows.items()}) for first in range(0, count, batch)]
    )


def quality(
    embeds: tuple[np.ndarray, np.ndarray], exact: tuple[np.ndarray, np.ndarray], split: Split
) -> dict[str, float]:
    images, texts = embeds
    similarities = images @ texts.T
    best_text, best_image = similarities.argmax(1), similarities.argmax(0)
    cosines = [float((mine * true).sum(-1).min()) for mine, true in zip(embeds, exact, strict=True)]
    return {
        "image_to_text": float((best_text == split.text_of_image).mean()),
        "text_to_image": float((split.text_of_image[best_image] == np.arange(len(texts))).mean()),
        "least_image_cosine": cosines[0],
        "least_text_cosine": cosines[1],
    }


def timed(models: dict[str, Embedder], split: Split, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Images and texts a second of each form."""
    images = {name: x[: options.batch] for name, x in split.images.items()}
    texts = {name: x[: options.batch] for name, x in split.texts.items()}
    found: dict[str, dict[str, list[float]]] = {form: {"images_per_sec": [], "texts_per_sec": []} for form in models}
    for _ in range(options.rounds):
        for form, model in models.items():
            found[form]["images_per_sec"].append(speed(model.encode_images, images))
            found[form]["texts_per_sec"].append(speed(model.encode_texts, texts))
    return {form: {name: statistics.median(x) for name, x in values.items()} for form, values in found.items()}


def speed(encode: Callable[[Rows], np.ndarray], rows: Rows) -> float:
    start = time.perf_counter()
    return len(encode(rows)) / (time.perf_counter() - start)


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| | images/s | texts/s | R@1 image to text | R@1 text to image | least cosine to float32 |",
        "| --- |" + " --- |" * 5,
    ]
    for row in rows:
        cosine = min(row["least_image_cosine"], row["least_text_cosine"])
        speeds = f"{row['images_per_sec']:.1f} | {row['texts_per_sec']:.1f}"
        lines.append(
            f"| {row['form']} | {speeds} | {row['image_to_text']:.1%} | {row['text_to_image']:.1%} | {cosine:.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
