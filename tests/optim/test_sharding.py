"""Optimizer state is born with the parameters' shardings and keeps them."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.optim import paths
from mmjax.optim.directions import AdafactorConfig
from mmjax.optim.muon import MuonConfig
from mmjax.optim.optimizer import CLIP_CLAMPS, OptimConfig, make_optimizer
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh

DIMS = {
    "image": {
        "blocks": {
            "attention": {"query": {"kernel": "ldn"}, "out": {"kernel": "lnd"}},
            "mlp": {"up": {"kernel": "ldf"}},
        },
        "positions": "pd",
    },
    "log_scale": "",
}
SIZES = {"l": 2, "d": 16, "n": 4, "h": 4, "f": 32, "p": 9}
NAMES = ["adamw", "lion", "sgd", "adafactor", "muon"]
ADAFACTOR = AdafactorConfig(min_factored_len=4)
MUON = MuonConfig(newton_schulz_steps=1)


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def params_on(mesh: Mesh, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)

    def place(dims: str) -> jax.Array:
        shape = tuple(SIZES[letter] for letter in dims)
        sharding = NamedSharding(mesh, rules.storage_spec(dims, shape, mesh))
        return jax.device_put(random.normal(size=shape).astype(np.float32), sharding)

    return jax.tree.map(place, DIMS)


@functools.cache
def step(name: str, mesh: Mesh) -> tuple[Any, Any, Any]:
    """Parameters, state and updates of one step of the optimizer `name` on `mesh`, which must keep its shardings."""
    config = OptimConfig(optimizer=name, weight_decay=0.1, adafactor=ADAFACTOR, muon=MUON, clamps=CLIP_CLAMPS)
    with jax.set_mesh(mesh):
        params, grads = params_on(mesh, 0), params_on(mesh, 1)
        optimizer, _ = make_optimizer(config, params, 10)
        state = jax.jit(optimizer.init)(params)
        updates, new_state = jax.jit(optimizer.update)(grads, state, params)
    jax.tree.map(_same_sharding, state, new_state)
    return params, state, updates


def _same_sharding(one: jax.Array, other: jax.Array) -> None:
    # Equal and not just equivalent: P() and P(None) would compile a step twice.
    assert one.sharding == other.sharding


@pytest.mark.parametrize("name", NAMES)
def test_updates_carry_the_parameters_specs(name: str, mesh: Mesh) -> None:
    params, _, updates = step(name, mesh)
    jax.tree.map(_same_sharding, params, updates)


@pytest.mark.parametrize("name", NAMES)
def test_moments_of_a_parameters_shape_carry_its_spec(name: str, mesh: Mesh) -> None:
    params, state, _ = step(name, mesh)
    specs = {leaf.shape: leaf.sharding.spec for leaf in jax.tree.leaves(params) if leaf.ndim > 1}
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape in specs]
    assert len(moments) >= len(specs)
    assert all(moment.sharding.spec == specs[moment.shape] for moment in moments)


def test_factored_moments_keep_what_is_left_of_the_spec(mesh: Mesh) -> None:
    _, state, _ = step("adafactor", mesh)
    moments = {path: leaf for path, leaf in paths.leaves(state).items() if path.endswith("mlp/up/kernel")}
    (rows,) = (leaf for path, leaf in moments.items() if "v_row" in path)
    (columns,) = (leaf for path, leaf in moments.items() if "v_col" in path)
    assert rows.sharding.spec == PartitionSpec(None, "fsdp")
    assert columns.sharding.spec == PartitionSpec(None, "tensor")


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_updates_equal_those_of_one_device(name: str, mesh: Mesh) -> None:
    single = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    _, _, sharded = step(name, mesh)
    _, _, plain = step(name, single)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), sharded, plain)
