"""Where arrays of the host become global ones: the one file of this room that knows JAX."""

import jax
import numpy as np

from mmjax.types import Array, Batch, HostBatch


def place(batch: HostBatch, sharding: jax.sharding.NamedSharding) -> Batch:
    """The global batch, of which `batch` holds the rows of this process; nothing is copied between processes."""
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def place_whole(array: np.ndarray, sharding: jax.sharding.Sharding) -> Array:
    """A global array from one that every process holds whole."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
