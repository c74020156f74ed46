"""Where a host batch becomes global arrays: the one file of this room that knows JAX."""

import jax

from mmjax.types import Batch, HostBatch


def place(batch: HostBatch, sharding: jax.sharding.NamedSharding) -> Batch:
    """The global batch, of which `batch` holds the rows of this process; nothing is copied between processes."""
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
