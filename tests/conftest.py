"""Every test runs on CPU and may use up to 8 virtual devices."""

from collections.abc import Iterator

import jax
import pytest
from jax.sharding import Mesh

from mmjax.parallel.mesh import MeshConfig, make_mesh

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Tiny models spend all their time in the compiler: without most of its optimisations they take half of it.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    """A mesh of one device, set for the length of the test."""
    one = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    with jax.set_mesh(one):
        yield one
