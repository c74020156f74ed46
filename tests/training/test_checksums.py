"""Checksums of arrays: the same on every mesh, and another for every changed bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training.checksums import describe, describe_shapes

VALUES = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
TYPES = ("float32", "bfloat16", "float16", "int32", "uint8", "bool")


def reference(x: np.ndarray) -> int:
    """The sum in Python integers, element by element."""
    bits = x.reshape(-1)
    bits = bits.astype(np.uint32) if x.dtype == bool else bits.view(f"u{x.dtype.itemsize}")
    total = 0
    for place, value in enumerate(bits.tolist()):
        mixed = place * 0x9E3779B1 % 2**32
        total += value * ((mixed ^ (mixed >> 15)) | 1)
    return total % 2**32


@pytest.mark.parametrize("dtype", TYPES)
def test_it_is_the_sum_of_bits_by_place(dtype: str) -> None:
    x = jnp.asarray(VALUES * 3).astype(dtype)
    assert describe({"x": x}) == {"x": {"shape": [16, 24], "dtype": dtype, "checksum": reference(np.asarray(x))}}


def test_it_is_the_same_on_every_mesh() -> None:
    tree = {"a": {"b": VALUES, "scalar": np.float32(3)}, "empty": np.zeros((0, 3), np.float32)}
    alone = describe(jax.tree.map(jnp.asarray, tree))
    for sizes, spec in {(8, 1, 1): P("data"), (2, 2, 2): P("fsdp", ("data", "tensor")), (1, 4, 2): P()}.items():
        mesh = make_mesh(MeshConfig(*sizes))
        with jax.set_mesh(mesh):
            placed = jax.tree.map(lambda x, m=mesh, s=spec: put(x, m, s), tree)
            assert describe(placed) == alone
    assert set(describe_shapes(tree)) == {"a/b", "a/scalar", "empty"}


def put(x: np.ndarray, mesh: jax.sharding.Mesh, spec: P) -> jax.Array:
    return jax.device_put(x, NamedSharding(mesh, spec if x.size == VALUES.size else P()))


def test_every_bit_and_every_place_counts() -> None:
    whole = describe([jnp.asarray(VALUES)])
    for bit in (0, 7, 22, 31):
        bits = VALUES.view(np.uint32).copy()
        bits[3, 5] ^= np.uint32(1 << bit)
        assert describe([jnp.asarray(bits.view(np.float32))]) != whole
    assert describe([jnp.asarray(VALUES[::-1].copy())]) != whole
    assert describe([jnp.asarray(np.roll(VALUES, 1, axis=1))]) != whole
