"""Sizes that a checkpoint and a config need not share: positions are resized over the image, and cut after the text."""

from typing import Protocol

import numpy as np

from mmjax.nn import positions

SIZE_FIELDS = ("image_size", "image_width", "context_len")
"""Of our configs."""


class Patches(Protocol):
    """A config of patches with learned positions."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""

    @property
    def num_prefix(self) -> int:
        """Tokens in front of them."""


def resized(table: np.ndarray, theirs: Patches, ours: Patches) -> np.ndarray:
    """Positions (tokens, d) of `theirs` over the image of `ours`, without those in front that ours lacks."""
    rows = table[theirs.num_prefix - ours.num_prefix :]
    return np.asarray(positions.resize(rows, theirs.grid, ours.grid, num_prefix=ours.num_prefix))
