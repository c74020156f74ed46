"""Position tables: fixed sines for image patches, and the resize of learned ones for another resolution."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.types import Array

LONGEST_PERIOD = 10_000.0
"""In patches over 2 pi; from Vaswani et al. (2017), sec. 3.5, kept by MoCo v3."""


def sincos_2d(grid: tuple[int, int], width: int) -> np.ndarray:
    """Fixed positions float32 (p, d): a quarter each of sin x, cos x, sin y, cos y (Chen et al., 2021, MoCo v3).

    Quarter frequency q of Q has period 2 pi 10000^(q / (Q - 1)). `width` is a multiple of 4, at least 8.
    """
    quarter = width // 4
    frequencies = LONGEST_PERIOD ** -(np.arange(quarter) / (quarter - 1))
    y, x = (axis.reshape(-1, 1) * frequencies for axis in np.mgrid[: grid[0], : grid[1]])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)


def resize(
    table: Array | np.ndarray,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    num_prefix: int = 0,
    method: Literal["cubic", "linear"] = "cubic",
) -> Array:
    """A learned table (num_prefix + old patches, d) interpolated to (num_prefix + new patches, d).

    The first `num_prefix` rows (the class token's) are copied. Going down, the kernel is widened so that nothing
    aliases. The values are those of torch's `interpolate` with `antialias=True`; "cubic" is Keys's kernel with
    a = -0.5, where torch without antialiasing has a = -0.75.
    """
    if old_grid == new_grid:
        return jnp.asarray(table)
    prefix, patches = table[:num_prefix], table[num_prefix:]
    patches = jax.image.resize(patches.reshape(*old_grid, -1), (*new_grid, table.shape[-1]), method, antialias=True)
    return jnp.concatenate([jnp.asarray(prefix), patches.reshape(-1, table.shape[-1])])
