"""The reference that an export carries: inputs, and what the trained model made of them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax.errors import UserError

FOLDER = "proof"
ARRAYS, TEXTS, IMAGES = "reference.npz", "texts.json", "images"


class Sample(NamedTuple):
    """Hard cases for the preprocessing, and pairs of the data with their embeddings.

    n cases of images, m of texts, k pairs; t tokens, e the shared width. A tower that is not there has arrays of no
    rows.
    """

    case_files: tuple[str, ...]
    """Names of n files in `proof/images`."""
    case_pixels: np.ndarray
    """uint8 (n, y, x, 3): what training made of the files."""
    case_texts: tuple[str, ...]
    case_ids: np.ndarray
    """int32 (m, t)."""
    case_mask: np.ndarray
    """bool (m, t), True for real tokens."""
    pixels: np.ndarray
    """uint8 (k, y, x, 3)."""
    texts: tuple[str, ...]
    text_ids: np.ndarray
    """int32 (k, t)."""
    text_mask: np.ndarray
    """bool (k, t)."""
    image_embeds: np.ndarray
    """float32 (k, e), of length 1."""
    text_embeds: np.ndarray
    """float32 (k, e), of length 1."""
    logits: np.ndarray
    """float32 (k, k), an image a row."""


def write(export: Path, sample: Sample) -> None:
    """Writes all but the case files, which lie in the folder already."""
    arrays = {name: value for name, value in sample._asdict().items() if isinstance(value, np.ndarray)}
    folder = export / FOLDER
    np.savez_compressed(folder / ARRAYS, allow_pickle=False, **arrays)
    names = {name: value for name, value in sample._asdict().items() if name not in arrays}
    (folder / TEXTS).write_text(json.dumps(names, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(export: Path) -> Sample:
    """The sample of an export.

    Raises:
        UserError: it carries none, or it is broken.
    """
    folder = export / FOLDER
    try:
        names = json.loads((folder / TEXTS).read_text(encoding="utf-8"))
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            values: dict[str, Any] = {**{name: tuple(value) for name, value in names.items()}, **arrays}
            return Sample(**values)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder} holds no reference ({error}): export the model again") from error
