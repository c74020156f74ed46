"""The reference that an export carries: inputs, and what the trained model made of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax.errors import UserError

FOLDER = "proof"
ARRAYS, TEXTS, IMAGES = "reference.npz", "texts.json", "images"

Arrays = Mapping[str, np.ndarray]
"""By name."""


class Sample(NamedTuple):
    """Hard cases for the preprocessing, and pairs of the data with what the model made of them.

    n cases of images, m of texts, k pairs; t tokens. A model that looks at no pixels, or at no texts, has no cases of
    them.
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
    texts: tuple[str, ...]
    """Of the k pairs."""
    inputs: Arrays
    """What the model sees of the pairs, each (k, ...): `text_ids`, `text_mask`, and `image` uint8 (k, y, x, 3), or the
    fields of its regions."""
    outputs: Arrays
    """float32 (k, ...), or (rows, ...) where `places` says which rows are kept."""
    places: Arrays
    """bool (k, tokens) of outputs that have a row for each token: True for the rows that are compared."""


GROUPS = ("inputs", "outputs", "places")
"""Fields that are arrays by name; in the file each has its field in front of its name."""


def write(export: Path, sample: Sample) -> None:
    """Writes all but the case files, which lie in the folder already."""
    values = sample._asdict()
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    texts = {name: value for name, value in values.items() if isinstance(value, tuple)}
    grouped = {f"{group}/{name}": array for group in GROUPS for name, array in values[group].items()}
    folder = export / FOLDER
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / ARRAYS, allow_pickle=False, **arrays, **grouped)
    (folder / TEXTS).write_text(json.dumps(texts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(export: Path) -> Sample:
    """The sample of an export.

    Raises:
        UserError: it carries none, or it is broken.
    """
    folder = export / FOLDER
    try:
        texts = json.loads((folder / TEXTS).read_text(encoding="utf-8"))
        values: dict[str, Any] = {name: tuple(value) for name, value in texts.items()} | {name: {} for name in GROUPS}
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            for path, array in arrays.items():
                group, _, name = path.rpartition("/")
                (values[group] if group else values)[name] = array
        return Sample(**values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} holds no reference ({error}): export the model again") from error
