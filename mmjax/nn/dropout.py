"""Randomness in the forward pass. Each function takes its own key; without one it is the identity.

The masks are drawn in the sharding of what they mask. With JAX's partitionable generator their bits depend on the key
alone, so that every mesh drops the same entries.
"""

import jax
import jax.numpy as jnp

from mmjax.parallel import rules
from mmjax.types import Array, Key


def split(key: Key | None, num: int) -> list[Key] | list[None]:
    """`num` keys from one, or as many Nones: a deterministic pass stays one all the way down."""
    return [None] * num if key is None else list(jax.random.split(key, num))


def dropout(x: Array, rate: float, key: Key | None, dims: str) -> Array:
    """Each entry of `x` kept with probability 1 - rate and scaled by its inverse, else 0 (Srivastava et al., 2014)."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape, out_sharding=rules.spec(dims))
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def drop_path(branch: Array, rate: Array | None, key: Key | None) -> Array:
    """The residual branch (b, t, d), dropped whole for an example with probability `rate` (Huang et al., 2016).

    `rate` is traced, as a stack scans over one rate a layer; None leaves every branch as it is.
    """
    if key is None or rate is None:
        return branch
    keep = jax.random.bernoulli(key, 1 - rate, (branch.shape[0], 1, 1), out_sharding=rules.spec("btd"))
    return jnp.where(keep, branch / (1 - rate), 0).astype(branch.dtype)


def drop_patches(patches: Array, rate: float, key: Key | None) -> Array:
    """A random subset of the patches (b, p, d), of one size for all examples, in their order (Li et al., 2023, FLIP).

    1 - rate of the patches are kept, at least one; the others are never computed on.
    """
    if key is None or rate == 0:
        return patches
    num_patches = patches.shape[1]
    num_kept = max(1, round(num_patches * (1 - rate)))
    noise = jax.random.uniform(key, patches.shape[:2], out_sharding=rules.spec("bp"))
    kept = jnp.sort(jnp.argsort(noise, axis=1)[:, :num_kept], axis=1)
    return jnp.take_along_axis(patches, kept[:, :, None], axis=1)
