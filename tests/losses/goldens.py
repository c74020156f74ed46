"""What the authors' code of ViLBERT and UNITER made of seeded batches; see `tests/parity/reference/README.md`."""

import json
from pathlib import Path

import numpy as np

from tests.parity.reference import seeded

FOLDER = Path(__file__).parents[1] / "parity" / "reference"


def golden(name: str, case: str) -> tuple[seeded.Batch, dict[str, np.ndarray]]:
    """The batch, and outputs and losses by their names; `case` is "full", or "padded" with rows of different length."""
    sizes = json.loads((FOLDER / f"{name}.json").read_text())["inputs"]
    arrays = np.load(FOLDER / f"{name}.npz")
    outputs = {key.removeprefix(f"{case}/"): arrays[key] for key in arrays if key.startswith(case)}
    return seeded.inputs(**sizes, padded=case == "padded"), outputs


def spread(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The rows of true positions, in row-major order, at these positions; NaN elsewhere."""
    full = np.full((*mask.shape, *rows.shape[1:]), np.nan, np.float32)
    full[mask] = rows
    return full
