"""What is dropped, how often, and that it depends on the key alone."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.nn.dropout import drop_patches, drop_path, dropout, split
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh

KEY = jax.random.key(0)


def test_without_a_key_nothing_is_dropped():
    x = jnp.ones((2, 3, 4))
    assert dropout(x, 0.5, None, "btd") is x
    assert drop_path(x, jnp.asarray(0.5), None) is x
    assert drop_patches(x, 0.5, None) is x
    assert split(None, 3) == [None, None, None]


def test_dropout_keeps_the_mean():
    x = dropout(jnp.ones((64, 16, 16)), 0.25, KEY, "btd")
    assert np.allclose(np.unique(x), [0, 1 / 0.75])
    assert abs(float(x.mean()) - 1) < 0.02


def test_drop_path_drops_whole_examples():
    x = np.asarray(drop_path(jnp.ones((256, 2, 3)), jnp.asarray(0.5), KEY))
    assert set(x.reshape(256, -1).sum(1)) == {0, 12}
    assert abs(x.mean() - 1) < 0.2


def test_patches_are_left_out_in_order_and_differently_for_each_example():
    patches = jnp.broadcast_to(jnp.arange(8.0)[None, :, None], (16, 8, 1))
    kept = np.asarray(drop_patches(patches, 0.5, KEY))[:, :, 0]
    assert kept.shape == (16, 4)
    assert np.all(np.diff(kept, axis=1) > 0)
    assert len({tuple(row) for row in kept}) > 1


def test_every_mesh_drops_the_same():
    x = np.random.default_rng(0).normal(size=(8, 6, 4)).astype(np.float32)

    def dropped(x: jax.Array) -> jax.Array:
        x = drop_path(dropout(x, 0.3, KEY, "btd"), jnp.asarray(0.3), jax.random.key(1))
        return drop_patches(x, 0.5, jax.random.key(2))

    expected = jax.jit(dropped)(x)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        assert np.array_equal(jax.jit(dropped)(jax.device_put(x, rules.batch_sharding(mesh))), expected)
