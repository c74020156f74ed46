"""Small folders of images with captions."""

import json
from pathlib import Path

from tests.data.tiny_sources import png

SPLITS = {"train": 32, "test": 12}


def write_image_folder(folder: Path, prefix: str = "thing", **splits: int) -> Path:
    """A folder in the ImageFolder convention with so many images a split, or `SPLITS`."""
    for split, num_images in (splits or SPLITS).items():
        (folder / split).mkdir(parents=True)
        lines = [{"file_name": f"{index}.png", "text": f"{prefix} {index}"} for index in range(num_images)]
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for index in range(num_images):
            (folder / split / f"{index}.png").write_bytes(png(hash_of(split, index)))
    return folder


def hash_of(split: str, index: int) -> int:
    """A seed that differs between splits, the same in every process."""
    return index + 1000 * sum(split.encode())
