"""Positions in whole tiles, as a TPU wants them."""

import jax.numpy as jnp

from mmjax.nn.attention import source_mask
from mmjax.parallel import rules
from mmjax.parallel.chips import SUBLANES
from mmjax.types import Array


def aligned(x: Array) -> tuple[Array, Array | None]:
    """x (b, t, d) with rows of zeros behind it, up to a whole tile, and the mask bool (b, t) of what was there.

    As it is, and None, where nothing is added: on other devices, and where the tiles are whole.
    """
    length = x.shape[1]
    missing = -length % SUBLANES
    if not missing or not rules.runs_on_tpu():
        return x, None
    return jnp.pad(x, ((0, 0), (0, missing), (0, 0))), jnp.arange(length + missing)[None] < length


def key_mask(mask: Array | None) -> Array | None:
    """The mask of `aligned` as attention takes it."""
    return None if mask is None else source_mask(mask)
